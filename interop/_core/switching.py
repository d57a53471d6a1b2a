"""The ``with`` blocks that make a stream current in every library, and put back exactly what was.

A signal handler can raise between any two steps of Python, also in the middle of ``__enter__`` and ``__exit__``. Three
rules make sure that everything is put back all the same:

- A block is added to its thread's list before it switches anything. It is removed after everything was put back.
- What was current is saved before it is replaced. Putting back sets the saved values, so it can be done twice.
- The ``with`` statement holds a function for the exit that was made for this one block. If the function is destroyed
  and the block was not left, then the exit was interrupted before its first step. The block has ended all the same.

So after any interruption the block has ended and is still on the list, and :func:`_put_back` completes it. That runs
when the function is destroyed, which is when the exception leaves the ``with`` statement; or else in the thread's next
call of this module.
"""

import contextlib
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from interop._core.above import Stream
from interop.adapters import with_current_stream
from interop.adapters.base import Adapter
from interop.errors import InteropError, InvalidStreamError, NestingError


class _Block:
    """One ``with`` block of a thread: its context manager, its stream, and what to do when it ends.

    Then what was current before is put back, and the consumers wait for the stream.
    """

    __slots__ = ("before", "consumers", "function", "is_over", "libraries", "manager", "stream")

    def __init__(self, manager: object) -> None:
        self.manager = manager
        self.function: weakref.ref[Any] | None = None
        self.stream: Stream = None
        self.before: int | None = None
        self.libraries: list[tuple[Adapter, object]] = []
        self.consumers: Sequence[Stream] = ()
        self.is_over = False

    def has_ended(self) -> bool:
        """Whether the block was left, or cannot be left, because the function that entered it is gone."""
        return self.is_over or (self.function is not None and self.function() is None)

    def put_back(self) -> BaseException | None:
        """Make the earlier device and streams current again. May be called again if it was interrupted.

        Returns:
            The first error on the way, or None.
        """
        cuda, before = self.stream._cuda, self.before
        if before is None or cuda.was_forked:
            return None  # nothing was switched; or this is a forked child, where neither CUDA nor the libraries work
        # The block's own device first: the libraries have a current stream for each device, and the code in the block
        # may have made another device current. Even if that device is lost, the libraries are switched back.
        errors = [_try_twice(cuda.bind_context, self.stream._context)]
        lost = isinstance(errors[0], InteropError)
        errors += [_try_twice(adapter.leave, token) for adapter, token in reversed(self.libraries)]
        errors.append(_try_twice(cuda.bind_context, before))
        # A wait that is placed twice orders nothing more.
        errors += [_try_twice(consumer.wait_stream, self.stream) for consumer in self.consumers]
        return next((error for error in errors[lost:] if error is not None), None)


class _ThreadBlocks(threading.local):
    """The blocks that the calling thread is in, the innermost last; and the function that was last made for an exit."""

    def __init__(self) -> None:
        self.blocks: list[_Block] = []
        self.function: weakref.ref[Any] | None = None


# By thread, and not by context manager: one stream or one `use` can be entered many times, and by many threads.
_thread: Final = _ThreadBlocks()


class Exit:
    """The ``__exit__`` of a class of context managers that call :func:`enter` in ``__enter__``.

    A ``with`` statement reads ``__exit__`` before it enters, and gets a function of its own. Code that calls
    ``__exit__`` itself gets one too, which leaves the innermost block of the context manager.
    """

    def __get__(self, manager: object, owner: type | None = None) -> Callable[..., None]:
        """A new function that leaves a block of *manager*."""
        if manager is None:
            return self
        # A partial, not a function in Python: the traceback of an interruption in it would keep a function alive.
        function = partial(_leave, _Block(manager))
        _thread.function = weakref.ref(function)
        return function

    def __call__(self, manager: object, *error: object) -> None:
        """Leave the innermost block of *manager*, as ``type(manager).__exit__(manager, ...)`` does."""
        _leave(_Block(manager), *error)


def enter(manager: object, stream: Stream, adapters: Sequence[Adapter] = (), consumers: Sequence[Stream] = ()) -> None:
    """Make *stream* current until *manager* is left: in the libraries of *adapters*, or in all if there are none.

    When the block ends, *consumers* wait for *stream*.
    """
    _put_back()
    block = _new_block(manager)
    cuda = stream._cuda
    context = stream._usable_context()
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
        block.consumers = consumers
    except BaseException:
        block.is_over = True
        _put_back()
        raise


def _new_block(manager: object) -> _Block:
    """The block of the function that a ``with`` statement has just got from :class:`Exit`; else a new block."""
    reference, _thread.function = _thread.function, None
    function = None if reference is None else reference()
    if function is None or function.args[0].manager is not manager:
        return _Block(manager)
    block: _Block = function.args[0]
    block.function = weakref.ref(function, _put_back)
    return block


def _leave(block: _Block, *_error: object) -> None:
    """Put back what was current before *block*, which must be the innermost block that has not ended.

    Raises:
        NestingError: it is not, or it was not entered in this thread.
    """
    blocks = _thread.blocks
    if block.stream is None:  # it was never entered: code has called `__exit__` itself
        block = next((other for other in reversed(blocks) if other.manager is block.manager), block)
    if block not in blocks or block.is_over:
        message = f"{block.manager!r} cannot be left here: it was not entered in this thread, or was left before"
        raise NestingError(message)
    inner = [other for other in blocks[blocks.index(block) + 1 :] if not other.has_ended()]
    block.is_over = True
    if inner:
        message = (
            f"the block of {block.stream!r} ends before that of {inner[-1].stream!r}, which was entered after it in "
            "this thread and has not ended; what was current before them is put back when the last of them ends. Leave "
            "blocks in the reverse order. An `await` inside of `use` can cause this: pass the stream by `to()`, or use "
            "`wait_stream`, instead"
        )
        raise NestingError(message)
    _put_back()
    block.function = None  # so that its destruction calls nothing: what a signal handler raised there would be lost


def _put_back(_gone: object = None) -> None:
    """Put back what was current before the innermost blocks of the calling thread that have ended.

    As a callback of the destruction of an exit's function, this runs only if the exit was interrupted. What is raised
    then is lost.
    """
    blocks = _thread.blocks
    failed = None
    while blocks and blocks[-1].has_ended():
        block = blocks[-1]
        failed = block.put_back() or failed
        if blocks and blocks[-1] is block:  # else a signal handler or a finaliser has called this function in between
            del blocks[-1]
    if failed is not None:
        raise failed


def _try_twice(set_it: Callable[[Any], None], what: object) -> BaseException | None:
    """Call *set_it*, and once more if it raises: a signal handler may have interrupted it. Returns the error."""
    try:
        set_it(what)
    except BaseException as error:  # noqa: BLE001  (it is raised when the rest is put back)
        with contextlib.suppress(Exception):  # if it was no interruption, this is the same error
            set_it(what)
        return error
    return None


def stream_in_use() -> Stream:
    """The stream of the innermost ``with use(stream)`` or ``with stream`` that the calling thread is in.

    Raises:
        InvalidStreamError: there is no such block.
    """
    streams = streams_in_use()
    if not streams:
        message = "no stream was given, and no `with interop.use(stream):` is around the call: pass a stream"
        raise InvalidStreamError(message)
    return streams[0]


def streams_in_use() -> list[Stream]:
    """The streams of the ``with`` blocks that the calling thread is in, the innermost first."""
    _put_back()
    return [block.stream for block in reversed(_thread.blocks) if block.stream is not None and not block.has_ended()]
