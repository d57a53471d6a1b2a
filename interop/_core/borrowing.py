"""From an object of any library to the handle of a stream or event; and the streams that were borrowed before."""

import weakref
from typing import Any, Final

from interop import _cuda
from interop._cuda.addresses import check_handle, exact_int, is_a, stands_for_another
from interop._native import StreamFields
from interop._show.text import described
from interop.adapters.base import Adapter
from interop.errors import AdapterError, InvalidStreamError, StaleStreamError

# -- what was borrowed before --------------------------------------------------------------------------------------

borrowed_by_id: Final[dict[int, StreamFields]] = {}
"""By the id of another library's object: its stream, without an owner. The extension in C reads this too."""
lifetimes: Final[dict[int, weakref.ref[object]]] = {}
"""By the same id: a weak reference that removes both entries, before another object can get the same id."""


def remember(obj: object, anchor: object, stream: StreamFields) -> None:
    """Remember that *obj* is *stream*, which has no owner, for as long as *anchor*, the ``life`` of *obj*, lives."""
    identity = id(obj)

    # At the exit of the interpreter, the names of this module mean None before the last objects are freed.
    def forget(reference: object, streams: dict[int, Any] = borrowed_by_id, lives: dict[int, Any] = lifetimes) -> None:
        if lives.get(identity) is reference:
            streams.pop(identity, None)
            del lives[identity]

    lifetimes[identity] = weakref.ref(anchor, forget)
    borrowed_by_id[identity] = stream


def update_borrowed(stream: StreamFields) -> None:
    """Copy what was just found out about *stream* to the stream that is remembered for its owner."""
    remembered = borrowed_by_id.get(id(stream.owner))
    if remembered is not None and remembered._handle == stream._handle:
        remembered._context, remembered._context_id = stream._context, stream._context_id
        remembered._pool, remembered._device = stream._pool, stream._device


def refuse_stale(stream: StreamFields) -> None:
    """With ``INTEROP_CHECK=1``: raise StaleStreamError if another stream, or none, is at the address by now."""
    if stream._handle <= _cuda.PER_THREAD:
        return
    cuda = stream._cuda
    if not cuda.readable(stream._handle):
        message = f"{stream!r} is gone: there is no readable memory at its address. Was it destroyed by its library?"
        raise StaleStreamError(message)
    if not cuda.stream_capture(stream._handle):  # else CUDA would invalidate the capture
        now = cuda.stream_id(stream._handle)
        if stream._id is None:
            stream._id = now
        if now != stream._id:
            message = (
                f"{stream!r} is gone: it was stream number {stream._id}, and its address belongs to number {now} now. "
                "Keep the object that made the stream alive for as long as this one is used"
            )
            raise StaleStreamError(message)


# -- streams -------------------------------------------------------------------------------------------------------


def stated_handle(obj: object, *, has_adapter: bool) -> int:
    """The handle that *obj* states itself, by the protocol or otherwise.

    Args:
        obj: an object that no adapter takes for a stream.
        has_adapter: whether its library has one. Then a ``handle`` of the object is not the handle of a stream.

    Raises:
        InvalidStreamError: *obj* is no stream.
    """
    if not is_a(obj, type):
        if hasattr(type(obj), "__cuda_stream__") or "__cuda_stream__" in _own_attributes(obj):
            return _protocol_handle(obj)
        # PyCUDA's streams have an int `handle`. So have its events and contexts, which are no streams.
        is_other = has_adapter or is_named(obj, "Event") or is_named(obj, "Context")
        if not is_other and not stands_for_another(obj):
            try:
                handle = exact_int(getattr(obj, "handle", None))
            except Exception as error:
                message = f"the handle of {described(obj)} raised {type(error).__name__}: {error}"
                raise InvalidStreamError(message) from error
            if handle is not None:
                return handle
    message = (
        "expected a stream: an interop.ExternalStream, a stream of CuPy, Numba, PyTorch, cuda.core, RMM or Warp, an "
        "object with __cuda_stream__, a cudaStream_t or CUstream, or the address of one as an int; got "
        f"{described(obj)}{'. wait_event waits for an event' if is_named(obj, 'Event') else ''}"
    )
    raise InvalidStreamError(message)


def is_named(obj: object, ending: str) -> bool:
    """Whether the name of the class of *obj*, or of a base of it, ends so: in all libraries, streams and events do."""
    return any(cls.__name__.endswith(ending) for cls in type(obj).__mro__)


def _protocol_handle(obj: object) -> int:
    """The handle in ``(0, handle)``, which ``__cuda_stream__`` gives: a method or, in some libraries, an attribute.

    https://nvidia.github.io/cuda-python/cuda-core/latest/interoperability.html#cuda-stream-protocol
    """
    name = f"{type(obj).__qualname__}.__cuda_stream__"
    try:
        stated = obj.__cuda_stream__  # type: ignore[attr-defined]
        if callable(stated):
            stated = stated()
    except Exception as error:
        message = f"{name} of {described(obj)} raised {type(error).__name__}: {error}"
        raise InvalidStreamError(message) from error
    if not is_a(stated, tuple) or len(stated) != 2:  # noqa: PLR2004  (the protocol's pair)
        message = f"{name} must give the pair (0, handle); {described(obj)} gave {described(stated)}"
        raise InvalidStreamError(message)
    version, handle = stated
    if exact_int(version) != 0:
        message = f"{name} has version {described(version)}; interop knows version 0 of the protocol"
        raise InvalidStreamError(message)
    number = exact_int(handle)
    if number is None:
        message = f"{name} must give an int as handle; {described(obj)} gave {described(handle)}"
        raise InvalidStreamError(message)
    return number


def _own_attributes(obj: object) -> dict[str, object]:
    """The attributes that *obj* has itself, and not by its class; none if it stands for another object."""
    if stands_for_another(obj):
        return {}
    try:
        attributes = obj.__dict__
    except Exception:  # noqa: BLE001  (it has none, or its `__dict__` is code that fails)
        return {}
    return attributes if is_a(attributes, dict) else {}


def is_kept_alive(stream: StreamFields) -> bool:
    """Whether the CUDA stream lives at least as long as *stream*: it is a default one, or its owner keeps it alive."""
    if stream._handle <= _cuda.PER_THREAD:
        return True
    if stream.owner is None:
        return False
    return stream._adapter is None or bool(stream._adapter.keeps_alive(stream.owner))


def checked_event(adapter: Adapter, obj: object, handle: int) -> int:
    """The handle that *adapter* gives for the event *obj*; 0 if the library has not created the CUDA event yet.

    Raises:
        AdapterError: *handle* is no int.
        InvalidEventError: *handle* cannot be the address of an event.
    """
    number = exact_int(handle)
    if number is None:
        message = (
            f"the adapter for {adapter.library!r} gave {described(handle)} for {described(obj)}: a handle is an int"
        )
        raise AdapterError(message)
    return check_handle(number, "event", _cuda.active()) if number else 0
