"""The ledger itself: turns the calls of interop and of the libraries into a history, and finds the races in it."""

import threading
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, cast

from interop import _cuda
from interop._core.created import CreatedStream
from interop._core.habits import stream_beside
from interop._core.names import Labels, identity_of
from interop._order import watchers
from interop._order.clocks import StreamKind
from interop._order.findings import Finding, Kind, Party
from interop._show.callsite import user_frame, where
from interop._show.text import as_printed, plural
from interop.event import as_event
from interop.ledger.events import Events, Token
from interop.ledger.fixes import Fixes
from interop.ledger.history import History
from interop.ledger.layout import Layout, describe, layout_of, of_tensor
from interop.ledger.steps import Steps
from interop.ledger.streams import OBSERVED, SEEN, KnownStream
from interop.ledger.tally import KEPT, Tally
from interop.stream import ExternalStream

if TYPE_CHECKING:
    from interop.adapters.tensor import Tensor
    from interop.event import Event
    from interop.ledger.driver.watch import Watch, Window


class Ledger(watchers.Watcher):
    """What was seen of a program. Made by :func:`interop.ordering.check`. Usable from every thread.

    Example::

        with interop.sim.simulate() as gpu, interop.ordering.check(raises=False) as ledger:
            x = gpu.array([0.0], name="x")
            ledger.writes(x, gpu.stream("producer"))
            ledger.reads(x, gpu.stream("consumer"))  # nothing orders the two
        assert len(ledger.races) == 1
        print(ledger)
    """

    def __init__(self, *, strict: bool, watch: "Window | Watch | None" = None, eye: str = "libraries") -> None:
        """Start with nothing known.

        Args:
            strict: whether to raise where a race is found.
            watch: records the driver's calls, if these are judged, and not those that libraries report.
            eye: which of both it is, and why.
        """
        self._strict = strict
        self._watch = watch
        self.eye = eye
        self._history = History()
        self._events = Events(self._forget_event)
        self._steps = Steps(Tally())
        self._labels = Labels()

    # -- what was found ------------------------------------------------------------------------------------------

    @property
    def accesses(self) -> int:
        """How many accesses were seen or declared."""
        return self._tally().accesses

    @property
    def captured(self) -> int:
        """How many calls were left out because their stream was capturing a graph."""
        return self._tally().captured

    @property
    def races(self) -> list[Finding]:
        """The races, each pair of places in the code once, oldest first. Only the first 1000 findings are kept."""
        return [finding for finding in self._tally().findings if not finding.uncertainty]

    @property
    def unknown(self) -> list[Finding]:
        """The pairs of accesses that are races unless something out of sight orders them."""
        return [finding for finding in self._tally().findings if finding.uncertainty]

    @property
    def blind(self) -> list[str]:
        """What was seen and could not be judged, in sentences. The page on the ledger says what no eye sees."""
        if self._watch is not None:
            return self._watch.blind
        captured = self.captured
        return [f"{plural(captured, 'call')} on streams that captured a graph"] if captured else []

    _repr_pretty_ = as_printed

    def __repr__(self) -> str:
        return f"<interop.ordering ledger: {str(self).splitlines()[0]}>"

    def __str__(self) -> str:
        tally = self._tally()
        unknown = sum(bool(finding.uncertainty) for finding in tally.findings)
        races = plural(len(tally.findings) - unknown, "race")
        lines = [f"{races} and {unknown} unknown in {plural(tally.accesses, 'access', 'accesses')}"]
        if tally.captured:
            lines.append(f"left out: {plural(tally.captured, 'call')} on streams that captured a graph")
        for finding, count in sorted(tally.findings.items(), key=lambda item: bool(item[0].uncertainty)):
            lines.append(f"{finding}" + (f"\n  Seen {count} times." if count > 1 else ""))
        if tally.left_out:
            lines.append(f"and more, seen {tally.left_out} times: the first {KEPT} are kept")
        return "\n".join(lines)

    def __bool__(self) -> NoReturn:
        """Raise: that a ledger exists says nothing.

        Raises:
            TypeError: always.
        """
        message = "a ledger is not true or false: write `assert not ledger.races`, and `print(ledger)` for all it found"
        raise TypeError(message)

    # -- what the program declares -------------------------------------------------------------------------------

    def reads(self, array: object, stream: object) -> None:
        """Declare that the next work on *stream* reads *array*. Call it just before that work is submitted.

        Args:
            array: anything with ``__cuda_array_interface__`` or ``__dlpack__``, or a simulated array.
            stream: anything that :func:`interop.as_stream` takes.

        Raises:
            RaceError: an unordered access writes the array. Only with ``strict=True``.
            InvalidArrayError: *array* is not an array on a GPU.
            InvalidStreamError: *stream* is not a stream.
        """
        self._declare(stream_beside(array, stream, "reads(array, stream)"), array, Kind.READ)

    def writes(self, array: object, stream: object) -> None:
        """Declare that the next work on *stream* writes *array*, and perhaps reads it. Otherwise as :meth:`reads`."""
        self._declare(stream_beside(array, stream, "writes(array, stream)"), array, Kind.WRITE)

    def _declare(self, stream: ExternalStream, array: object, kind: Kind) -> None:
        layout = layout_of(array)
        if self._watch is None:
            self.accessed(stream, [(array, layout, kind)], "the program's own work")
        elif not stream.is_capturing():
            self._watch.declare(layout.start, layout.stop - layout.start, kind, stream.cuda_stream)

    def hear(self, thread: threading.Thread) -> None:
        """Declare that *thread* has told the calling thread that it is done so far, as through a queue."""
        if self._watch is not None:
            self._watch.hear(thread.native_id or 0)
            return
        me = threading.current_thread()
        self._steps.take(lambda: self._history.hear(me, thread))

    # -- what interop reports ------------------------------------------------------------------------------------

    def recorded(self, stream: ExternalStream, event: "Event") -> None:
        """See :class:`interop._order.watchers.Watcher`."""
        found = self._known(stream)
        handle, thread = event._handle_or_0(), threading.current_thread()

        def step() -> None:
            token = self._events.recorded(event, handle)
            if found is None:
                self._history.forget(token)  # the event stands for a node of a graph now
            else:
                self._history.record(token, self._history.known(found), thread)

        self._steps.take(step)

    def recorded_device(self, cuda: _cuda.Cuda, context: int, event: "Event") -> None:
        """See :class:`interop._order.watchers.Watcher`."""
        key, handle, thread = (cuda, cuda.context_id(context)), event._handle_or_0(), threading.current_thread()
        self._steps.take(lambda: self._history.record_context(self._events.recorded(event, handle), key, thread))

    def waited(self, stream: ExternalStream, event: "Event") -> None:
        """See :class:`interop._order.watchers.Watcher`."""
        thread = threading.current_thread()
        # If an observed library uses an event at a bare address, the event's records are seen too.
        seen = event._owned or event._cuda.simulation is not None or stream.owner is SEEN
        uncertainty = "" if seen else _uncertainty_of(event._adapter.library if event._adapter else None)

        def step(known: KnownStream) -> None:
            token = self._events.token(event)
            if not self._history.wait(known, token, thread) and not token.is_unrecorded:
                self._history.assume_ordered(known, "it has waited for an event whose record was not seen")
            elif uncertainty:
                self._history.assume_ordered(known, uncertainty)

        self._take(stream, step)

    def joined(self, consumer: ExternalStream, producer: ExternalStream) -> None:
        """See :class:`interop._order.watchers.Watcher`."""
        thread = threading.current_thread()
        # Either both streams capture or neither does.
        if (before := self._known(producer)) is not None:
            self._take(consumer, lambda after: self._history.join(after, self._history.known(before), thread))

    def finished(self, what: "ExternalStream | Event") -> None:
        """See :class:`interop._order.watchers.Watcher`."""
        thread = threading.current_thread()
        if isinstance(what, ExternalStream):
            self._take(what, lambda known: self._history.host_knows_stream(known, thread))
            return

        def step() -> None:
            token = self._events.token(what)
            if not token.is_unrecorded:
                self._history.host_knows_event(token, thread)

        self._steps.take(step)

    def handed_over(
        self, array: object, tensor: "Tensor", producer: ExternalStream | None, consumer: ExternalStream
    ) -> None:
        """See :class:`interop._order.watchers.Watcher`."""
        after = self._known(consumer)
        if after is None:
            return
        before = None if producer is None else self._known(producer)
        layout, name, place = of_tensor(tensor), describe(array), where()
        thread = threading.current_thread()

        def step() -> None:
            reader = self._history.known(after)
            if before is None:
                self._history.assume_ordered(reader, "an array that orders its consumers itself was handed to it")
            elif self._history.memory.is_untouched(layout):
                writer = self._history.known(before)
                party = Party("what was there before the hand-over", writer.label, Kind.WRITE, name, place)
                self._history.work(writer, [(party, layout)], thread)
                self._history.join(reader, writer, thread)

        self._steps.take(step)
        self.accessed(consumer, [(array, layout, Kind.READ)], "the consumer of a hand-over")

    # -- what the observers of libraries report ------------------------------------------------------------------

    def _tally(self) -> Tally:
        """What was counted up to now."""
        if self._watch is None:
            return self._steps.settled()
        return self._watch.tally()

    def accessed(self, stream: ExternalStream, arrays: list[tuple[object, Layout, Kind]], by: str) -> None:
        """Add one piece of work.

        Args:
            stream: the stream of the work.
            arrays: each array, or a description of it; its layout; and what the work does to it.
            by: the work, in words.

        Raises:
            RaceError: the work races with earlier work. Only if the ledger is strict; then the work is not added.
        """
        found = self._known(stream)
        if found is None:
            return
        frame, thread = user_frame(), threading.current_thread()
        place = where(frame)
        touches = [
            (Party(by, found.label, kind, array if isinstance(array, str) else describe(array), place), layout)
            for array, layout, kind in arrays
            if layout.start < layout.stop
        ]
        races: list[Finding] = []

        def step() -> Tally:
            known = self._history.known(found)
            findings = self._find(known, touches, thread, frame)
            races[:] = [finding for finding in findings if not finding.uncertainty]
            if not (races and self._strict):
                self._history.work(known, touches, thread)
            return self._steps.state.plus(len(touches), findings)

        self._steps.take(step, wait=True)
        if races and self._strict:
            raise races[0].error(races[1:])

    def stream_used(self, stream: ExternalStream) -> None:
        """A stream was given to a library, which does not say what for."""
        self._take(stream, lambda _: None)

    def pool_allocated(self, stream: ExternalStream, layout: Layout, by: str) -> None:
        """A memory pool has given memory to a new array, for work on *stream*. That work is not seen yet."""
        found = self._known(stream)
        if found is None:
            return
        frame, thread = user_frame(), threading.current_thread()
        party = Party(by, found.label, Kind.WRITE, f"memory at {layout.start:#x}", where(frame))
        out_of_sight = "the work that will write to it cannot be seen, and may be ordered by then"

        def step() -> Tally:
            findings = self._find(self._history.known(found), [(party, layout)], thread, frame)
            uncertain = [replace(finding, uncertainty=finding.uncertainty or out_of_sight) for finding in findings]
            return self._steps.state.plus(0, uncertain)

        self._steps.take(step)

    def driver_allocated(self, layout: Layout) -> None:
        """The driver has given memory. It has waited for all earlier accesses of that memory."""
        self._steps.take(lambda: self._history.memory.forget(layout))

    def pool_waited(self, layout: Layout, stream: ExternalStream) -> None:
        """A memory pool gives memory again, and has waited for what *stream* did to it."""
        self._take(stream, lambda known: self._history.memory.forget_stream(layout, known))

    def context_finished(self, cuda: _cuda.Cuda, context: int) -> None:
        """The host has waited for all work of a context."""
        key, thread = (cuda, cuda.context_id(context)), threading.current_thread()
        self._steps.take(lambda: self._history.host_knows_context(key, thread))

    def assume_all_ordered(self, uncertainty: str) -> None:
        """Something out of sight may have ordered all later work after all work so far."""
        self._steps.take(lambda: self._history.assume_all_ordered(uncertainty))

    def event_made(self, event: object) -> None:
        """A library has made an event. Until a record of it is seen, a wait for it certainly orders nothing."""
        known = as_event(event)
        handle = known._handle_or_0()
        self._steps.take(lambda: self._events.made(known, handle))

    # -- inside --------------------------------------------------------------------------------------------------

    def _take(self, stream: ExternalStream, step: Callable[[KnownStream], None]) -> None:
        """Call *step* with the stream of the history that stands for *stream*; not while *stream* captures."""
        if (found := self._known(stream)) is not None:
            self._steps.take(lambda: step(self._history.known(found)))

    def _find(
        self,
        stream: KnownStream,
        touches: list[tuple[Party, Layout]],
        thread: threading.Thread,
        frame: FrameType | None,
    ) -> dict[Finding, None]:
        """What these accesses would conflict with, as the next work of the stream."""
        found: dict[Finding, None] = {}
        fixes = Fixes(frame)
        for party, layout in touches:
            for old, uncertainty in self._history.conflicts(stream, party, layout, thread):
                producer = cast("KnownStream", old.epoch.line.key)
                found[Finding(old.party, party, fixes.line(stream, producer), uncertainty)] = None
        return found

    def _known(self, stream: ExternalStream) -> KnownStream | None:
        """The stream as the history knows it. None, and counted, while it captures. Asks CUDA, so not in a step."""
        cuda, handle = stream._cuda, stream._handle
        stream._usable_context()
        context, identity = (cuda, stream._context_id), identity_of(stream)
        by_handle = f"{handle}, device={stream.device}"
        if handle == _cuda.LEGACY:
            label = stream.name or f"the legacy default stream of device {stream.device}"
            return KnownStream((context, handle), context, StreamKind.LEGACY, label, identity, by_handle)
        if stream.is_capturing():
            self._count_capture()
            return None
        if handle == _cuda.PER_THREAD:
            thread = threading.current_thread()
            label = stream.name or f"the per-thread default stream of {thread.name} of device {stream.device}"
            own = (context, stream._thread)
            return KnownStream(own, context, StreamKind.BLOCKING, label, identity, by_handle, thread=thread)
        key = (cuda, stream.stream_id)
        known = self._history.streams.get(key)
        if known is not None:
            kind, label = known.kind, known.label
        else:
            kind = StreamKind.BLOCKING if cuda.stream_blocks(handle) else StreamKind.NON_BLOCKING
            label = self._labels.of(stream)
        uncertainty = self._uncertainty_about(stream)
        return KnownStream(
            key, context, kind, label, identity, f"{handle:#x}", place=(cuda, handle), uncertainty=uncertainty
        )

    def _count_capture(self) -> None:
        self._steps.take(lambda: self._steps.state._replace(captured=self._steps.state.captured + 1))

    def _uncertainty_about(self, stream: ExternalStream) -> str:
        """Why waits of the stream may be out of sight; empty if all are seen."""
        if stream._cuda.simulation is not None:
            return ""
        for library in stream._natives or ():
            if uncertainty := _uncertainty_of(library):
                return uncertainty
        if isinstance(stream.owner, CreatedStream) or stream.owner is SEEN:
            return ""
        return _uncertainty_of(stream._adapter.library if stream._adapter else None)

    def _forget_event(self, number: int, reference: object, token: Token) -> None:
        def step() -> None:
            self._events.remove(number, reference)
            self._history.forget(token)

        self._steps.take(step)


def _uncertainty_of(library: str | None) -> str:
    """Why waits through a library may be out of sight; empty if all are seen."""
    if library in (None, "cuda.bindings"):
        return "waits that are made with a bare address, or by a library that interop does not know, cannot be seen"
    return "" if library in OBSERVED else f"{library}'s own waits cannot be seen"
