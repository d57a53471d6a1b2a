"""One stream, current in every library at once."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from interop import _cuda
from interop._core import switching
from interop._core.event import Event, as_event
from interop._cuda.addresses import Device, check_device, is_a, is_void_pointer
from interop._safety.blocks import Block
from interop.adapters import current_stream_adapter, ready, with_current_stream
from interop.adapters.base import Adapter
from interop.errors import InvalidDeviceError, InvalidEventError, NotSupportedError
from interop.stream import ExternalStream, as_stream

T = TypeVar("T")

_CURRENT: Final = "current"
"""What ``after`` and ``before`` of :class:`use` call the libraries' current streams."""


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

    The host does not wait. By default nothing is ordered either: the stream does not wait for work on the previous
    current streams. ``use(stream, after="current", before="current")`` orders both ways, on the device.

    Without ``with`` nothing is switched, and a ``RuntimeWarning`` says so.

    A library that is imported inside the block keeps its own current stream. A library without a current stream, such
    as Numba, takes its stream at each call: ``stream.to("numba")``.

    Args:
        stream: anything that :func:`interop.as_stream` takes.
        libraries: import paths of the libraries to switch; by default all libraries that are loaded.
        after: what the stream waits for on entry: a stream or an event, of any library, or a list of these; or
            ``"current"``: the current streams, before the block, of the libraries that it switches, on the current
            device and on that of the stream. If a wait cannot be placed, its error is raised and nothing is switched.
        before: what waits on exit for all work of the stream until then: a stream or a list of streams, or the same
            ``"current"``. An exception in the block makes no difference. If a wait cannot be placed, its error is
            raised after everything was put back.

    Raises:
        InvalidStreamError: *stream* is no stream, nor is what *after* or *before* says.
        NotSupportedError: one of *libraries* has no current stream; the message says what to do instead.
        LibraryNotFoundError: one of *libraries* is not installed, or not known.
        CaptureError, UnrecordedEventError: a wait cannot be placed; see ``wait_stream`` and ``wait_event``.
    """

    _call = "use"

    def __init__(self, stream: object, *libraries: str, after: object = None, before: object = None) -> None:
        """Find the streams and the libraries. Nothing is switched yet."""
        self.stream = as_stream(stream)
        self._adapters = [current_stream_adapter(library) for library in libraries]
        self._waits = after is not None or before is not None
        if self._waits:
            self._after = _all_of(after, _stream_or_event)
            self._before = _all_of(before, as_stream)
            for other in (*(self._after or ()), *(self._before or ())):
                self.stream._require_same_cuda(other)
        self._entered = False

    def __enter__(self) -> ExternalStream:
        """Switch the libraries. If one of them raises an error, switch the others back, and raise that error."""
        self._entered = True
        if self._waits:
            self._enter_in_order()
        else:
            switching.enter(self, self.stream, self._adapters)
        return self.stream

    __exit__ = switching.Exit()

    def _enter_in_order(self) -> None:
        stream = self.stream
        adapters = self._adapters or with_current_stream(simulated=stream._cuda.simulation is not None)
        after, before = self._after, self._before
        if after is None or before is None:
            current = _current_streams(adapters, stream)
            after = current if after is None else after
            before = current if before is None else before
        for event in after:
            if is_a(event, Event):
                stream.wait_event(event)
        stream.wait_stream(*(other for other in after if not is_a(other, Event)))
        switching.enter(self, stream, adapters, before)


def _all_of(given: object, borrow: Callable[[object], T]) -> Sequence[T] | None:
    """What ``after`` or ``before`` says, each thing borrowed; None for the current streams."""
    if given is None:
        return ()
    if type(given) is str and given == _CURRENT:
        return None
    return [borrow(each) for each in (given if isinstance(given, list | tuple) else (given,))]


def _stream_or_event(obj: object) -> ExternalStream | Event:
    if not (is_a(obj, int) or is_void_pointer(obj)):  # an address is that of a stream
        with contextlib.suppress(InvalidEventError):
            return as_event(obj)
    return as_stream(obj)


def _current_streams(adapters: Sequence[Adapter], stream: ExternalStream) -> list[ExternalStream]:
    """The current streams of the libraries, on the current device and on that of *stream*."""
    switching.streams_in_use()  # completes blocks whose exit was interrupted
    cuda = stream._cuda
    contexts = dict.fromkeys((cuda.current_context(), stream._usable_context()))
    return [
        cuda.within(context, lambda adapter=adapter: as_stream(adapter.current_stream()))
        for context in contexts
        for adapter in adapters
    ]


def current_stream(library: str) -> ExternalStream:
    """The current stream of *library*, where its new work goes: in the calling thread, on the current device.

    Example::

        import torch

        producer.wait_stream(interop.current_stream("torch"))

    Args:
        library: import path of a library with a current stream: ``"cupy"``, ``"torch"``, ``"tvm_ffi"``,
            ``"warp"`` or ``"nvidia.dali.experimental.dynamic"``.

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
