"""The ``with`` blocks that make a stream current in every library, and put back exactly what was.

A signal handler can raise between any two steps of Python, also in the middle of ``__enter__`` and ``__exit__``. Three
rules keep a block whole:

- A block is on the list of its thread before it switches anything, and leaves the list after it has put all back.
- What was current is noted before it is replaced. Putting back sets what was, and can be done again.
- The ``with`` statement holds a function for the exit that was made for this one block. If that function goes and the
  block was not left, the exit was interrupted before its first step: the block is over all the same.

So whatever is interrupted, the block is over and still on the list, and :func:`_put_back` finishes it: when the
function goes, which is when the exception leaves the ``with`` statement; else in the thread's next call of this module.
"""

# ruff: noqa: SLF001  (blocks and streams are of one house)

import contextlib
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, overload

from interop.adapters import with_current_stream
from interop.adapters.base import Adapter
from interop.errors import InteropError, InvalidStreamError, NestingError

if TYPE_CHECKING:
    from interop.stream import ExternalStream


class _Block:
    """One ``with`` block of a thread: of which manager, and what is to be put back when it ends."""

    __slots__ = ("before", "function", "is_over", "libraries", "manager", "stream")

    def __init__(self, manager: object) -> None:
        self.manager = manager
        self.function: weakref.ref[Any] | None = None
        self.stream: ExternalStream | None = None
        self.before: int | None = None
        self.libraries: list[tuple[Adapter, object]] = []
        self.is_over = False

    def has_ended(self) -> bool:
        """Whether it was left, or nobody can leave it any more."""
        return self.is_over or (self.function is not None and self.function() is None)

    def put_back(self) -> BaseException | None:
        """Make current what was, everywhere; the first error on the way. Can be interrupted, and then done again."""
        stream: Any = self.stream
        cuda, before = stream._cuda, self.before
        if before is None or cuda.was_forked:
            return None  # nothing was switched; or this is a child, in which neither CUDA nor the libraries work
        # On the block's own device again: the libraries keep their current streams by device, and the block may have
        # left another one current. Even if that device is lost, the libraries are switched back.
        errors = [_twice(cuda.bind_context, stream._context)]
        lost = isinstance(errors[0], InteropError)
        errors += [_twice(adapter.leave, token) for adapter, token in reversed(self.libraries)]
        errors.append(_twice(cuda.bind_context, before))
        return next((error for error in errors[lost:] if error is not None), None)


class _Thread(threading.local):
    """The blocks that the calling thread is in, the innermost last; and the function that was last made for an exit."""

    def __init__(self) -> None:
        self.blocks: list[_Block] = []
        self.function: weakref.ref[Any] | None = None


# Kept by thread, and not by manager: so one stream or one `use` may be entered many times, nested, and by many threads.
_thread: Final = _Thread()


class Exit:
    """The ``__exit__`` of a class of context managers that call :func:`enter` in ``__enter__``.

    A ``with`` statement asks for it before it enters, and gets a function of its own. Who calls ``__exit__`` by hand
    gets one too, and leaves the innermost block of that manager.
    """

    @overload
    def __get__(self, manager: None, owner: type) -> "Exit": ...
    @overload
    def __get__(self, manager: object, owner: type | None = None) -> Callable[..., None]: ...
    def __get__(self, manager: object, owner: type | None = None) -> "Exit | Callable[..., None]":
        """A new function that leaves a block of *manager*."""
        if manager is None:
            return self
        # A partial, and no function in Python: that one would be kept alive by the traceback of its own interruption.
        function = partial(_leave, _Block(manager))
        _thread.function = weakref.ref(function)
        return function

    def __call__(self, manager: object, *error: object) -> None:
        """Leave the innermost block of *manager*, as ``type(manager).__exit__(manager, ...)`` does."""
        _leave(_Block(manager), *error)


def enter(manager: object, stream: "ExternalStream", adapters: Sequence[Adapter] = ()) -> None:
    """Make *stream* current in the libraries of *adapters*, if any, else in all, until *manager* is left."""
    _put_back()
    block = _new_block(manager)
    cuda = stream._cuda
    context = stream._ready()
    block.stream = stream
    try:
        _thread.blocks.append(block)
        block.before = cuda.bound_context()
        cuda.bind_context(context)
        adapters = adapters or with_current_stream(simulated=cuda.simulation is not None)
        for adapter, native in [(adapter, stream.to(adapter.library)) for adapter in adapters]:
            token = adapter.before(native)
            block.libraries.append((adapter, token))
            adapter.enter(native, token)
    except BaseException:
        block.is_over = True
        _put_back()
        raise


def _new_block(manager: object) -> _Block:
    """The block that belongs to the function that a ``with`` statement has just asked for; else one without."""
    reference, _thread.function = _thread.function, None
    function = None if reference is None else reference()
    if function is None or function.args[0].manager is not manager:
        return _Block(manager)
    block: _Block = function.args[0]
    block.function = weakref.ref(function, _put_back)
    return block


def _leave(block: _Block, *_error: object) -> None:
    """Put back what was current before *block*, which is the innermost one that goes on.

    Raises:
        NestingError: it is not, or not in this thread.
    """
    blocks = _thread.blocks
    if block.stream is None:  # its function was asked for by hand, at the end
        block = next((other for other in reversed(blocks) if other.manager is block.manager), block)
    if block not in blocks or block.is_over:
        message = f"{block.manager!r} cannot be left here: it was not entered in this thread, or was left before"
        raise NestingError(message)
    inner = [other for other in blocks[blocks.index(block) + 1 :] if not other.has_ended()]
    block.is_over = True
    if inner:
        message = (
            f"the block of {block.stream!r} ends before that of {inner[-1].stream!r}, which was entered after it in "
            "this thread and goes on; what was current before them is put back when the last of them ends. Leave "
            "blocks in the reverse order. This comes of one `use` across an `await`: take the stream by `to()` or "
            "`wait_stream` instead"
        )
        raise NestingError(message)
    _put_back()
    block.function = None  # so that its end calls nothing: an interrupt in there would be lost


def _put_back(_gone: object = None) -> None:
    """Put back what the innermost blocks have switched that have ended, in the calling thread.

    As a callback of the function for an exit, this runs only if that was interrupted: what is raised here is lost.
    """
    blocks = _thread.blocks
    failed = None
    while blocks and blocks[-1].has_ended():
        block = blocks[-1]
        failed = block.put_back() or failed
        if blocks and blocks[-1] is block:  # a signal handler or finaliser may have been here meanwhile
            del blocks[-1]
    if failed is not None:
        raise failed


def _twice(set_it: Callable[[Any], None], what: object) -> BaseException | None:
    """Call *set_it*, and once more if it was interrupted, as any error may mean; the error."""
    try:
        set_it(what)
    except BaseException as error:  # noqa: BLE001  (it is raised when the rest is put back)
        with contextlib.suppress(Exception):  # it was no interruption, and this is the same error
            set_it(what)
        return error
    return None


def stream_in_use() -> "ExternalStream":
    """The stream of the innermost ``with use(stream)`` or ``with stream`` that the calling thread is in.

    Raises:
        InvalidStreamError: it is in none.
    """
    streams = streams_in_use()
    if not streams:
        message = "no stream was given, and no `with interop.use(stream):` around the call says which: name one"
        raise InvalidStreamError(message)
    return streams[0]


def streams_in_use() -> "list[ExternalStream]":
    """The streams of the ``with`` blocks that the calling thread is in, the innermost first."""
    _put_back()
    return [block.stream for block in reversed(_thread.blocks) if block.stream is not None and not block.has_ended()]
