"""One stream, current in every library at once."""

import contextlib
import threading
from types import TracebackType
from typing import Final, NamedTuple

from interop import _cudart
from interop._block import Block
from interop.adapters import current_stream_adapter, with_current_stream
from interop.adapters.base import Adapter
from interop.errors import CudaError, InvalidStreamError, NestingError, NotSupportedError
from interop.stream import ExternalStream, as_stream


class _Block(NamedTuple):
    """A ``with`` block that a thread is in: what is to be switched back when it ends."""

    manager: object
    stream: ExternalStream
    context: int
    libraries: list[tuple[Adapter, object]]


class _Thread(threading.local):
    """The blocks that the calling thread is in, the innermost last."""

    def __init__(self) -> None:
        self.blocks: list[_Block] = []


# Kept by thread, and not by manager: so one stream or one `use` may be entered many times, nested, and by many threads.
_thread: Final = _Thread()


class use(Block[ExternalStream]):  # noqa: N801  (used as a function)
    """Make a stream current, on its device, in every loaded library that has a current stream; a context manager.

    On entry the stream's device becomes the current one, and the stream the current one of CuPy, PyTorch, Warp and of
    every other such library, for the calling thread (in Warp, for all threads: it has one current stream a device). On
    exit, also by an exception, both are exactly what they were, even if the block set others of its own. Blocks may be
    nested, and other threads may do the same at the same time, with the same object too.

    Nothing is ordered and nothing waits: work that was queued on the previous current streams is not waited for.
    Without ``with`` nothing is switched, and a ``RuntimeWarning`` says so.

    A library that is imported inside the block keeps its own current stream. One without a current stream, like
    Numba, takes its stream at each call: ``stream.to("numba")``.

    Args:
        stream: anything that :func:`interop.as_stream` takes.
        libraries: import paths of the libraries to switch, and no others; by default all that are loaded.

    Raises:
        InvalidStreamError: *stream* is no stream.
        NotSupportedError: a library that was named has no current stream; the message says what to do instead.
        LibraryNotFoundError: a library that was named is not installed, or not known.
    """

    _call = "use"

    def __init__(self, stream: object, *libraries: str) -> None:
        """Find the stream and the libraries; switch nothing yet."""
        self.stream = as_stream(stream)
        self._adapters = [current_stream_adapter(library) for library in libraries]
        self._entered = False

    def __enter__(self) -> ExternalStream:
        """Switch; if one library cannot, switch the others back and raise what it raised."""
        self._entered = True
        enter(self, self.stream, self._adapters)
        return self.stream

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Switch back, in reverse order."""
        leave(self)


def enter(manager: object, stream: ExternalStream, adapters: list[Adapter]) -> None:
    """Make *stream* current in the libraries of *adapters*, if any, else in all; until :func:`leave` of *manager*."""
    cuda = stream._cuda
    adapters = adapters or with_current_stream(simulated=cuda.simulation is not None)
    libraries: list[tuple[Adapter, object]] = []
    _thread.blocks.append(_Block(manager, stream, cuda.switch(stream._ready()), libraries))
    try:
        for adapter, native in [(adapter, stream.to(adapter.library)) for adapter in adapters]:
            libraries.append((adapter, adapter.enter(native)))
    except BaseException:
        leave(manager)
        raise


def leave(manager: object) -> None:
    """Restore what was current before the last :func:`enter`, which must have been that of *manager*.

    Raises:
        NestingError: it was not, or not in this thread. Nothing is changed.
    """
    blocks = _thread.blocks
    if not blocks or blocks[-1].manager is not manager:
        where = (
            "another block was entered after it" if any(b.manager is manager for b in blocks) else "it was not entered"
        )
        message = (
            f"{manager!r} cannot be left here: {where} in this thread. Leave blocks in the reverse order, in their own "
            "thread; with no `await` or `yield` inside, where other code may run in between"
        )
        raise NestingError(message)
    block = blocks.pop()
    cuda = block.stream._cuda
    if cuda.was_forked:
        return  # nothing of CUDA's, nor of the libraries', works here: the child goes its own way
    try:
        # On the block's own device again: the libraries keep their current streams by device, and the block may have
        # left another one current. Even if that device is lost, the libraries are switched back.
        with contextlib.suppress(CudaError):
            cuda.switch(block.stream._context)
        _switch_back(block.libraries)
    finally:
        cuda.switch(block.context)


def _switch_back(libraries: list[tuple[Adapter, object]]) -> None:
    """In reverse order; if one library fails, the others are switched back all the same."""
    try:
        while libraries:
            adapter, token = libraries.pop()
            adapter.leave(token)
    finally:
        if libraries:
            _switch_back(libraries)


def stream_in_use() -> ExternalStream:
    """The stream of the innermost ``with use(stream)`` or ``with stream`` that the calling thread is in.

    Raises:
        InvalidStreamError: it is in none.
    """
    if not _thread.blocks:
        message = "no stream was given, and no `with interop.use(stream):` around the call says which: name one"
        raise InvalidStreamError(message)
    return _thread.blocks[-1].stream


def streams_in_use() -> list[ExternalStream]:
    """The streams of the ``with`` blocks that the calling thread is in, the innermost first."""
    return [block.stream for block in reversed(_thread.blocks)]


def current_stream(library: str) -> ExternalStream:
    """The stream that *library* gives new work to: in the calling thread, on the current device.

    Args:
        library: import path of a library with a current stream: ``"cupy"``, ``"torch"`` or ``"warp"``.

    Raises:
        NotSupportedError: the library has no current stream; the message says what to do instead.
        LibraryNotFoundError: it is not installed, or not known.
        NoDeviceError: there is no driver, or no device.
    """
    adapter = current_stream_adapter(library)
    if not adapter.usable():
        _cudart.active().current_device()  # if there is none, that is why
        message = f"{library}, as it is installed here, cannot use a GPU"
        raise NotSupportedError(message)
    return as_stream(adapter.current_stream())
