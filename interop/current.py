"""One stream, current in every library at once."""

from interop import _cuda, _switching
from interop._safety.blocks import Block
from interop.adapters import current_stream_adapter
from interop.errors import NotSupportedError
from interop.stream import ExternalStream, as_stream


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
        _switching.enter(self, self.stream, self._adapters)
        return self.stream

    __exit__ = _switching.Exit()


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
    _switching.streams_in_use()  # blocks that were interrupted at their end are over now
    if not adapter.usable():
        _cuda.active().current_device()  # if there is none, that is why
        message = f"{library}, as it is installed here, cannot use a GPU"
        raise NotSupportedError(message)
    return as_stream(adapter.current_stream())
