"""One stream, current in every library at once."""

from interop import _cuda
from interop._core import switching
from interop._cuda.addresses import Device, check_device
from interop._safety.blocks import Block
from interop.adapters import current_stream_adapter, ready
from interop.adapters.base import Adapter
from interop.errors import InvalidDeviceError, NotSupportedError
from interop.stream import ExternalStream, as_stream


class use(Block[ExternalStream]):  # noqa: N801  (used as a function)
    """Make a stream current, on its device, in every loaded library that has a current stream; a context manager.

    Example::

        import cupy, torch

        with interop.use(producer):
            x = cupy.ones(1 << 20)
            y = torch.ones(1 << 20, device="cuda")  # on the same stream

    On entry, the stream's device becomes the current device, and the stream becomes the current stream of CuPy,
    PyTorch, Warp and every other such library. This holds for the calling thread; in Warp it holds for all threads, as
    Warp has one current stream for each device. On exit, also by an exception, both become exactly what they were
    before, even if code in the block has set others. Blocks can be nested. Threads can enter blocks at the same time,
    also with one object.

    Nothing is ordered, and the host does not wait. The stream does not wait for work on the previous current streams.
    Without ``with`` nothing is switched, and a ``RuntimeWarning`` says so.

    A library that is imported inside the block keeps its own current stream. A library without a current stream, such
    as Numba, takes its stream at each call: ``stream.to("numba")``.

    Args:
        stream: anything that :func:`interop.as_stream` takes.
        libraries: import paths of the libraries to switch; by default all libraries that are loaded.

    Raises:
        InvalidStreamError: *stream* is no stream.
        NotSupportedError: one of *libraries* has no current stream; the message says what to do instead.
        LibraryNotFoundError: one of *libraries* is not installed, or not known.
    """

    _call = "use"

    def __init__(self, stream: object, *libraries: str) -> None:
        """Find the stream and the libraries. Nothing is switched yet."""
        self.stream = as_stream(stream)
        self._adapters = [current_stream_adapter(library) for library in libraries]
        self._entered = False

    def __enter__(self) -> ExternalStream:
        """Switch the libraries. If one of them raises an error, switch the others back, and raise that error."""
        self._entered = True
        switching.enter(self, self.stream, self._adapters)
        return self.stream

    __exit__ = switching.Exit()


def current_stream(library: str) -> ExternalStream:
    """The current stream of *library*, where its new work goes: in the calling thread, on the current device.

    Example::

        import torch

        producer.wait_stream(interop.current_stream("torch"))

    Args:
        library: import path of a library with a current stream: ``"cupy"``, ``"torch"`` or ``"warp"``.

    Raises:
        NotSupportedError: the library has no current stream; the message says what to do instead.
        LibraryNotFoundError: it is not installed, or not known.
        NoDeviceError: there is no driver, or no device.
    """
    adapter = _usable_adapter(library)
    switching.streams_in_use()  # completes blocks whose exit was interrupted
    return as_stream(adapter.current_stream())


def current_handle(library: str, device: Device | None = None) -> int:
    """The address of the current stream of *library*: what :func:`current_stream` stands for, as an int.

    Example::

        import cupy

        address = interop.current_handle("cupy")  # for a launch by address, in code that runs often

    No stream is borrowed: this costs little more than the library's own call. An address keeps nothing alive: use it at
    once, while the library keeps its stream.

    Args:
        library: as for :func:`current_stream`.
        device: as for :func:`as_stream`; by default the current one, which stays current.

    Returns:
        The address of the ``cudaStream_t``; 1 for the legacy and 2 for the per-thread default stream, never 0.

    Raises:
        InvalidDeviceError: *device* states no ordinal, or there is no such device.
        NotSupportedError, LibraryNotFoundError, NoDeviceError: as for :func:`current_stream`.
    """
    adapter = ready(library) if type(library) is str else None
    if adapter is None:
        adapter = _usable_adapter(library)
    if device is None:
        return adapter.current_handle(None)
    ordinal = check_device(device, _cuda.active())
    try:
        return adapter.current_handle(ordinal)
    except Exception as error:
        count = _cuda.active().device_count()
        if ordinal < count:
            raise
        message = f"there is no device {ordinal}: this process sees {count}, numbered from 0"
        raise InvalidDeviceError(message) from error


def _usable_adapter(library: str) -> Adapter:
    adapter = current_stream_adapter(library)
    if not adapter.usable():
        _cuda.active().current_device()  # raises if there is no device, which explains it
        message = f"{library}, as it is installed here, cannot use a GPU"
        raise NotSupportedError(message)
    return adapter
