"""Warp: a current stream a device, the same for all threads; one ``wp.Stream`` a handle, never two."""

import weakref

import warp

from interop.adapters.base import LEGACY, Adapter, Source, keep
from interop.errors import LibraryNotFoundError

if not hasattr(warp, "ScopedStream"):
    message = f"the module named warp here, {warp!r}, is not NVIDIA Warp"
    raise LibraryNotFoundError(message, name="warp")

# Warp's own map of streams has one entry a handle, and the first of two wrappers to go would take it away: so a
# second request for a handle gets the wrapper that is there.
_wrappers: "weakref.WeakValueDictionary[tuple[int, int], warp.Stream]" = weakref.WeakValueDictionary()


class WarpAdapter(Adapter):
    """warp.Stream and warp.Event."""

    library = "warp"
    has_current_stream = True

    def stream_handle(self, stream: object) -> int | None:
        """The null stream of a device holds None: the legacy stream."""
        return int(stream.cuda_stream or 0) or LEGACY if isinstance(stream, warp.Stream) else None

    def stream_device(self, stream: object) -> int | None:
        """Each device has its own null stream."""
        return int(stream.device.ordinal)  # type: ignore[attr-defined]

    def make_stream(self, source: Source) -> object:
        """The device's own stream objects where they are the same stream, else one wrapper a handle."""
        device = warp.get_device(f"cuda:{source.device}")
        if source.handle == LEGACY:
            return device.null_stream
        if device.stream.cuda_stream == source.handle:
            return device.stream
        wrapper = _wrappers.get((source.device, source.handle))
        if wrapper is None:
            wrapper = _wrappers[source.device, source.handle] = warp.Stream(device, cuda_stream=source.handle)
        elif source.owner is None:
            return wrapper
        return keep(wrapper, source)

    def event_handle(self, event: object) -> int | None:
        """Warp events are created when they are made."""
        return int(event.cuda_event) if isinstance(event, warp.Event) else None

    def usable(self) -> bool:
        """Whether Warp found a GPU."""
        return bool(warp.is_cuda_available())

    def current_stream(self) -> object:
        """Of Warp's device for the current context."""
        return warp.get_stream("cuda")

    def enter(self, stream: object) -> object:
        """Set it, and its device as Warp's default, without Warp's own synchronisation: ``use`` orders nothing."""
        scope = warp.ScopedStream(stream, sync_enter=False)
        scope.__enter__()
        return scope

    def leave(self, token: object) -> None:
        """Set the previous ones."""
        token.__exit__(None, None, None)  # type: ignore[attr-defined]


ADAPTER = WarpAdapter()
