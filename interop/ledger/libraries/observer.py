"""What all libraries have in common: streams and events that are recorded, waited for, and asked."""

from typing import TYPE_CHECKING, Any

from interop import _cuda
from interop.event import as_event
from interop.stream import ExternalStream, as_stream

if TYPE_CHECKING:
    from interop.event import Event
    from interop.ledger.ledger import Ledger


class Observer:
    """Tells a ledger of calls: each method takes the result of the call, and then the arguments of the call.

    A library overrides :meth:`stream_of` and :meth:`event_of`, which say what it means by its arguments.
    """

    def __init__(self, ledger: "Ledger") -> None:
        self.ledger = ledger

    def stream_of(self, stream: Any, event: Any) -> ExternalStream:  # noqa: ARG002  (see subclasses)
        """The stream that a call was given, or that the library uses in its place. *event* is None if there is none."""
        return as_stream(stream)

    def event_of(self, event: Any) -> "Event | None":
        """The event that a call was given; None if it was never recorded, so that a wait for it orders nothing."""
        return as_event(event)

    def event_made(self, _result: object, event: Any, *_args: Any, **_named: Any) -> None:
        """An event was made."""
        self.ledger.event_made(event)

    def event_recorded(self, _result: object, event: Any, stream: Any = None, *_flags: Any, **_named: Any) -> None:
        """An event was recorded on a stream."""
        if (found := self.event_of(event)) is not None:
            self.ledger.recorded(self.stream_of(stream, event), found)

    def event_waited(self, _result: object, event: Any, stream: Any = None) -> None:
        """A stream waits for an event."""
        if (found := self.event_of(event)) is not None:
            self.ledger.waited(self.stream_of(stream, event), found)

    def stream_waited(self, _result: object, stream: Any, event: Any, *_flags: Any, **_named: Any) -> None:
        """A stream waits for an event: a call with the stream first."""
        self.event_waited(None, event, stream)

    def event_done(self, _result: object, event: Any) -> None:
        """The host has waited for an event."""
        if (found := self.event_of(event)) is not None:
            self.ledger.finished(found)

    def event_asked(self, done: object, event: Any) -> None:
        """The host has asked whether an event is done."""
        if done:
            self.event_done(None, event)

    def stream_done(self, _result: object, stream: Any) -> None:
        """The host has waited for a stream."""
        self.ledger.finished(self.stream_of(stream, None))

    def stream_asked(self, done: object, stream: Any) -> None:
        """The host has asked whether a stream is done."""
        if done:
            self.stream_done(None, stream)

    def current_device_done(self, _result: object) -> None:
        """The host has waited for the current context."""
        self.ledger.context_finished(_cuda.GPU, _cuda.GPU.current_context())

    def device_done(self, ordinal: int) -> None:
        """The host has waited for a device."""
        self.ledger.context_finished(_cuda.GPU, _cuda.GPU.primary_context(ordinal))
