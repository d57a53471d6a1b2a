"""Events: points in a stream's work that other streams, and the host, can wait for."""

from interop._core.event import Event, as_event

as_event.__module__ = __name__

__all__ = ["Event", "as_event"]
