"""Warp: a current stream per device, shared by all threads; only one ``wp.Stream`` per handle."""

import sys
import weakref
from typing import Any

import warp

from interop.adapters.base import LEGACY, Adapter, Source, Takes, in_same_context, keep, lock, strided
from interop.adapters.tensor import COMPLEX, TYPES, Tensor
from interop.errors import LibraryNotFoundError

if not hasattr(warp, "ScopedStream"):
    message = f"the module named warp here, {warp!r}, is not NVIDIA Warp"
    raise LibraryNotFoundError(message, name="warp")

_TYPES = {getattr(warp, str(dtype)): dtype for dtype in TYPES.values() if dtype.code != COMPLEX}
_DTYPES = {dtype: numbers for numbers, dtype in _TYPES.items()}

# Warp's own map of streams has one entry per handle. If there were two wrappers, the first one to be destroyed would
# remove that entry. So a second request for a handle gets the existing wrapper, whether interop or the user made it.
_wrappers: "weakref.WeakValueDictionary[tuple[int, int], warp.Stream]" = weakref.WeakValueDictionary()
_lock = lock()


class _Entry:
    """A `use` block: the stream that was current on its device before it, and Warp's default device before it."""

    def __init__(self, stream: Any) -> None:  # noqa: ANN401
        self.on = stream.device
        self.stream: Any = None
        self.device: Any = None


# The open blocks of all threads: both settings are global to the process, and threads leave in any order.
_entries: list[_Entry] = []


class WarpAdapter(Adapter):
    """warp.Stream and warp.Event."""

    library = "warp"
    needs_device = False
    takes = Takes(dimensions=(1, 4), largest_stride=2**31 - 1, types=frozenset(_TYPES.values()))

    def stream_handle(self, stream: object) -> int | None:
        """The null stream of a device has None for a handle: it is the legacy stream."""
        if not isinstance(stream, warp.Stream):
            return None
        handle = int(stream.cuda_stream or 0)
        if not handle:
            return LEGACY
        _wrappers.setdefault((stream.device.ordinal, handle), stream)
        return handle

    def keeps_alive(self, stream: object) -> bool:
        """False for a foreign stream that :meth:`make_stream` has not wrapped."""
        return stream.owner or hasattr(stream, "_interop_sources")  # type: ignore[attr-defined]

    def stream_device(self, stream: object) -> int | None:
        """Each device has a null stream of its own."""
        return int(stream.device.ordinal)  # type: ignore[attr-defined]

    def make_stream(self, source: Source) -> object:
        """The device's own object if it is the same stream, else the one wrapper of the handle."""
        device = warp.get_device(f"cuda:{source.device}")
        if source.handle == LEGACY:
            return device.null_stream
        if device.stream.cuda_stream == source.handle:
            return device.stream
        with _lock:
            key = (source.device, source.handle)
            wrapper = _wrappers.get(key)
            if wrapper is None:
                wrapper = _wrappers[key] = warp.Stream(device, cuda_stream=source.handle)
            # Several borrowers may share it, each with an owner of its own.
            wrapper.__dict__.setdefault("_interop_sources", {})[id(source.owner)] = source
        return wrapper

    def event_handle(self, event: object) -> int | None:
        """The handle exists from the start."""
        return int(event.cuda_event) if isinstance(event, warp.Event) else None

    def is_array(self, array: object) -> bool:
        """A warp.array on a GPU."""
        return isinstance(array, warp.array) and array.device.is_cuda

    def array_stream(self, array: object) -> object | None:
        """Warp's current stream on the array's device."""
        return array.device.stream  # type: ignore[attr-defined, no-any-return]

    def read(self, array: Any) -> Tensor | None:  # noqa: ANN401
        """None for vectors and structures, which the array interface can tell."""
        dtype = _TYPES.get(array.dtype) if type(array) is warp.array and array.device.is_cuda else None
        if dtype is None:
            return None
        return strided(array.ptr or 0, array.shape, array.strides, dtype, array.device.ordinal, array)

    def holder_of(self, array: Any) -> object | None:  # noqa: ANN401
        """An attribute of the array; parts of the array do not have it."""
        return getattr(array, "_interop_source", None)

    def make_array(self, tensor: Tensor, holder: Any) -> object:  # noqa: ANN401
        """By address; a Warp array keeps nothing alive, so the holder is tied to it."""
        array = warp.array(
            ptr=tensor.address,
            dtype=_DTYPES[tensor.dtype],
            shape=tensor.shape,
            strides=tensor.byte_strides(),
            device=f"cuda:{tensor.device_id}",
        )
        return keep(array, holder)

    def usable(self) -> bool:
        """Whether Warp finds a GPU."""
        return bool(warp.is_cuda_available())

    def is_set_up(self, device: int) -> bool:
        """Warp initialises itself at the first call, and creates the stream of a device when it is first asked for."""
        runtime = getattr(sys.modules.get("warp._src.context"), "runtime", None)
        return runtime is not None and bool(runtime.cuda_devices[device].has_stream)

    def current_stream(self) -> object:
        """The current stream of Warp's device for the current context."""
        return warp.get_stream("cuda")

    def before(self, stream: object) -> object:
        """An entry that :meth:`enter` fills in, because other threads may enter before it."""
        return _Entry(stream)

    def enter(self, stream: object, before: Any) -> None:  # noqa: ANN401
        """Set *stream*, and its device as Warp's default. Without Warp's synchronisation: ``use`` orders nothing."""
        with _lock:
            before.stream, before.device = before.on.stream, warp.get_device()
            _entries.append(before)
            warp.set_device(before.on)
            before.on.set_stream(stream, sync=False)

    def leave(self, before: Any) -> None:  # noqa: ANN401
        """Set the previous stream and device. If another thread has entered since, let its block restore them."""
        with _lock:
            if before not in _entries:
                return
            later = _entries[_entries.index(before) + 1 :]
            above = next((other for other in later if other.on is before.on), None)
            if above is None:
                before.on.set_stream(before.stream, sync=False)
            else:
                above.stream = before.stream
            if later:
                later[0].device = before.device
            else:
                in_same_context(warp.set_device, before.device)  # Warp makes the context of this device current
            _entries.remove(before)  # last, so that after an interrupt everything is done again


ADAPTER = WarpAdapter()
