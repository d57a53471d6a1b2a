"""Streams: borrowed from any library, ordered against each other on the device, handed back to any library."""

import sys
from typing import Any

from interop import _cuda
from interop._core import above, borrowing, captures, habits, names
from interop._core.created import CreatedStream
from interop._core.event import Event
from interop._core.stream import ExternalStream
from interop._cuda.addresses import Device, check_device, exact_int, is_a, is_void_pointer
from interop._native import native
from interop._order import watchers
from interop._show.text import described
from interop.adapters import adapters_of, by_type
from interop.adapters.base import Adapter
from interop.errors import (
    AdapterError,
    CaptureError,
    CudaError,
    DeviceMismatchError,
    InvalidStreamError,
    NotSupportedError,
)

__all__ = ["ExternalStream", "as_stream", "new_stream", "wait_device"]


def new_stream(
    device: Device | None = None, *, priority: int = 0, non_blocking: bool = True, name: str | None = None
) -> ExternalStream:
    """Create a stream.

    Example::

        copies = interop.new_stream(priority=-1, name="copies")  # its work is taken up before that of priority 0
        copies.wait_stream(producer)

    When nothing refers to the stream and its work is done, a later call of this function destroys it. Every object that
    :meth:`ExternalStream.to` makes of it counts as a reference. The current device stays as it was.

    Args:
        device: as for :func:`as_stream`; by default the current one.
        priority: the lower the number, the sooner the stream's work is taken up. CUDA replaces a number outside the
            device's range by the nearest one in it.
        non_blocking: whether the stream and the legacy default stream do not wait for each other.
        name: what reprs, errors and reports call the stream; see :attr:`ExternalStream.name`.

    Raises:
        NoDeviceError: there is no driver, or no device.
        InvalidDeviceError: *device* states no ordinal, or there is no such device.
        TypeError: *name* is no str.
        ValueError: *name* is empty, or has line breaks or other characters that cannot be shown.
    """
    text = "" if name is None else names.checked(name)
    cuda = _cuda.active()
    context = cuda.current_context() if device is None else cuda.primary_context(check_device(device, cuda))
    owner = CreatedStream(cuda)
    owner.handle = handle = cuda.stream_create(context, non_blocking=non_blocking, priority=priority)
    stream = ExternalStream(handle, owner=owner)
    stream._priority = cuda.stream_priority(handle, context) if priority else 0
    names.made(stream, text, sys._getframe().f_back)
    return stream


def wait_device(stream: object, device: Device | None = None) -> None:
    """Make all future work of a stream wait for all work submitted to a device so far; returns at once.

    Example::

        interop.wait_device(consumer)  # also for work on streams that a library does not show

    The device waits, not the host. The work is that of all streams of the device's primary context, which all libraries
    share, and of its green contexts. It is more than is needed: where a library tells its stream, wait for that stream.

    Args:
        stream: the stream that waits, of any device; anything that :func:`as_stream` takes.
        device: as for :func:`as_stream`; by default that of *stream*.

    Raises:
        CaptureError: *stream* captures a graph; then the capture goes on. Or another stream of the device captures,
            which only CUDA knows: it has broken that capture.
        NotSupportedError: the driver is too old; the message says what to do instead.
        InvalidStreamError, InvalidDeviceError: *stream* is no stream, or there is no such device.
    """
    consumer = as_stream(stream)
    cuda = consumer._cuda
    ordinal = consumer.device if device is None else check_device(device, cuda)
    consumer._usable_context()
    if captures.capture_of(consumer):
        message = f"{consumer!r} captures a graph, and cannot wait for a whole device: wait before the capture begins"
        raise CaptureError(message)
    context = cuda.primary_context(ordinal)
    event = Event()
    event._cuda = cuda
    try:
        event._record_on_device(context)
    except CudaError as error:
        if error.code not in _cuda.CAPTURE_CODES:
            raise
        message = (
            f"a stream of device {ordinal} captures a graph, so {consumer!r} cannot wait for the whole device, and "
            f"CUDA has invalidated the capture ({error}). Wait before the capture begins, or for single streams: "
            "wait_stream"
        )
        raise CaptureError(message) from error
    except (AttributeError, RuntimeError) as error:
        message = (
            "the driver, or cuda.bindings, is too old to wait for a whole device on the device (cuCtxRecordEvent): "
            "update it, wait for single streams by wait_stream, or block the host by cudaDeviceSynchronize"
        )
        raise NotSupportedError(message) from error
    for watcher in watchers.active:
        watcher.recorded_device(cuda, context, event)
    consumer.wait_event(event)


def as_stream(obj: object, device: Device | None = None, *, name: str | None = None) -> ExternalStream:
    """Borrow a stream: the same stream, as an :class:`ExternalStream`, with its owner kept alive.

    Example::

        import torch

        stream = interop.as_stream(torch.cuda.current_stream())
        stream.wait_stream(producer)  # so PyTorch's later work waits

    Args:
        obj: an :class:`ExternalStream` (returned as it is); a stream of CuPy, Numba, PyTorch, cuda.core, RMM, Warp or
            of a library with an adapter of its own, and of subclasses; any object with ``__cuda_stream__``, a method or
            an attribute; a ``cudaStream_t`` or ``CUstream``; an object with an int ``handle``, as in PyCUDA; or the
            address of a stream, an int or a ``ctypes.c_void_p``.
        device: the stream's, to be checked: its ordinal, an int; ``"cuda:1"``; or an object with an int ``index``, such
            as ``torch.device("cuda:1")``; ``"cuda"`` is the current one. For the default streams 0, 1 and 2, the device
            whose default stream it is.
        name: a str: what reprs, errors and reports call the stream from now on; see :attr:`ExternalStream.name`.

    Returns:
        An :class:`ExternalStream`; *obj* itself if it is one.

    Raises:
        InvalidStreamError: *obj* is no stream, or the handle that it states cannot be that of a stream.
        DeviceMismatchError: the stream is on another device than *device*.
        InvalidDeviceError: *device* states no ordinal, or there is no such device.
        TypeError: *name* is no str.
        ValueError: *name* is empty, or has line breaks or other characters that cannot be shown.
    """
    if name is not None:
        return _with_name(obj, device, names.checked(name))
    if device is not None:
        device = check_device(device, _cuda.active())
    if is_a(obj, ExternalStream):
        if device is not None and obj.device != device:
            message = f"device={device} was given for {obj!r}, which is on device {obj.device}"
            raise DeviceMismatchError(message)
        return obj
    if is_a(obj, int):
        return ExternalStream(obj, device)
    borrowed: Any = borrowing.borrowed_by_id.get(id(obj))
    if borrowed is not None and device is None and borrowed._cuda is _cuda.active():
        return borrowed._with_owner(obj)  # type: ignore[no-any-return]
    adapters = adapters_of(obj)
    for adapter in adapters:
        try:
            handle = adapter.stream_handle(obj)
        except Exception as error:
            message = f"{described(obj)} cannot be used as a stream: {type(error).__name__}: {error}"
            raise InvalidStreamError(message) from error
        if handle is not None:
            return _from_adapter(adapter, obj, handle, device)
    is_bare = is_void_pointer(obj)
    stated: Any = obj if is_bare else borrowing.stated_handle(obj, has_adapter=bool(adapters))
    return ExternalStream(stated, device, owner=None if is_bare else obj)


def _with_name(obj: object, device: Device | None, name: str) -> ExternalStream:
    stream = as_stream(obj, device)
    names.give(stream, name, lives=borrowing.is_kept_alive(stream))
    return stream


def _from_adapter(adapter: Adapter, obj: object, handle: int, device: int | None) -> ExternalStream:
    number = exact_int(handle)
    if not number:
        message = (
            f"the adapter for {adapter.library!r} gave {described(handle)} for {described(obj)}: a handle is an int, "
            "and never 0"
        )
        raise AdapterError(message)
    if adapter.simulated is (_cuda.active().simulation is None):
        if adapter.simulated:
            message = f"{described(obj)} is simulated: use it inside `with interop.sim.simulate():`"
        else:
            message = (
                f"{described(obj)} of {adapter.library} is a stream of a GPU, and a simulation runs: take one of the "
                "simulation's streams, or leave its `with` block"
            )
        raise NotSupportedError(message)
    if number <= _cuda.PER_THREAD:
        place = adapter.stream_device(obj)
        if device is not None and place is not None and place != device:
            message = f"device={device} was given for {described(obj)}, the default stream of device {place}"
            raise DeviceMismatchError(message)
        device = place if device is None else device
    stream = ExternalStream(number, device, owner=obj)
    stream._adapter = adapter
    if adapter.streams_stay_the_same and number > _cuda.PER_THREAD and not _cuda.CHECK:
        anchor = adapter.life(obj)
        if anchor is not None:
            borrowing.remember(obj, anchor, stream._with_owner(None))
    return stream


if native is not None:
    native.accelerate(ExternalStream, Event, sys.modules[__name__], borrowing.borrowed_by_id, by_type)
habits.teach(ExternalStream, Event)
above.as_stream = as_stream
