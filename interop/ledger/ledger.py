"""The ledger itself: what interop and the libraries tell it, turned into a history, and what it finds in that."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, cast

from interop import _cuda
from interop._core.created import CreatedStream
from interop._order import watchers
from interop._order.clocks import StreamKind
from interop._safety import forks
from interop._show.callsite import user_frame, where
from interop._show.text import plural
from interop.event import as_event
from interop.ledger import report
from interop.ledger.arrays import described, layout_of, of_tensor
from interop.ledger.events import Events, Token
from interop.ledger.history import History, Line
from interop.ledger.memory import Kind, Layout
from interop.ledger.report import Finding, Party
from interop.stream import ExternalStream, as_stream

if TYPE_CHECKING:
    from interop.adapters.tensor import Tensor
    from interop.event import Event


WATCHED: Final = {"cupy": "cupy", "numba": "numba.cuda.cudadrv.driver", "torch": "torch"}
"""The libraries whose own waits are seen, by a module of that name here; and what is imported when they are."""


_KEPT: Final = 1000
"""So many findings are kept; of others it is counted how many there were."""


class _Tally(NamedTuple):
    """What was counted so far. Never changed, but replaced, so that no signal handler comes in the middle."""

    accesses: int = 0
    captured: int = 0
    findings: Mapping[Finding, int] = MappingProxyType({})
    left_out: int = 0

    def plus(self, accesses: int, findings: Iterable[Finding]) -> "_Tally":
        """Count so many accesses more, and what was found when they were made."""
        found, left_out = dict(self.findings), self.left_out
        for finding in findings:
            if finding in found or len(found) < _KEPT:
                found[finding] = found.get(finding, 0) + 1
            else:
                left_out += 1
        return _Tally(self.accesses + accesses, self.captured, found, left_out)


class Ledger(watchers.Watcher):
    """What was seen of a program. Made by :func:`interop.ordering.check`; usable from every thread."""

    def __init__(self, *, strict: bool) -> None:
        """Start with nothing known.

        Args:
            strict: whether to raise where a race is found.
        """
        self._strict = strict
        self._history = History()
        self._tally = _Tally()
        self._events = Events(self._forget)
        self._steps: deque[Callable[[], _Tally | None]] = deque()
        self._lock = forks.lock()
        self._failed: object = None

    # -- what was found ------------------------------------------------------------------------------------------

    @property
    def accesses(self) -> int:
        """How many accesses were seen or declared."""
        return self._settled().accesses

    @property
    def captured(self) -> int:
        """How many calls were left out, since their stream captured a graph."""
        return self._settled().captured

    @property
    def races(self) -> list[Finding]:
        """The races, each pair of places in the code once, oldest first. After 1000 findings no new ones are kept."""
        return [finding for finding in self._settled().findings if not finding.doubt]

    @property
    def unknown(self) -> list[Finding]:
        """The pairs that are races unless something orders them that could not be seen."""
        return [finding for finding in self._settled().findings if finding.doubt]

    def __str__(self) -> str:
        """All that was found, and how much was looked at."""
        tally = self._settled()
        unknown = sum(bool(finding.doubt) for finding in tally.findings)
        races = plural(len(tally.findings) - unknown, "race")
        lines = [f"{races} and {unknown} unknown in {plural(tally.accesses, 'access', 'accesses')}"]
        if tally.captured:
            lines.append(f"left out: {plural(tally.captured, 'call')} on streams that captured a graph")
        for finding, count in sorted(tally.findings.items(), key=lambda item: bool(item[0].doubt)):
            lines.append(f"{finding}" + (f"\n  Seen {count} times." if count > 1 else ""))
        if tally.left_out:
            lines.append(f"and more, seen {tally.left_out} times: the first {_KEPT} are kept")
        return "\n".join(lines)

    def __bool__(self) -> NoReturn:
        """Raise: that there is a ledger says nothing.

        Raises:
            TypeError: always.
        """
        message = "a ledger is not true or false: write `assert not ledger.races`, and `print(ledger)` for all it found"
        raise TypeError(message)

    # -- what the program says -----------------------------------------------------------------------------------

    def reads(self, array: object, stream: object) -> None:
        """Say that the next work on *stream* reads *array*. Say it just before that work is submitted.

        Args:
            array: anything with ``__cuda_array_interface__`` or ``__dlpack__``, or a simulated array.
            stream: anything that :func:`interop.as_stream` takes.

        Raises:
            RaceError: something unordered writes it. Only with ``strict=True``.
            InvalidArrayError: *array* is no array on a GPU.
            InvalidStreamError: *stream* is no stream.
        """
        self.accessed(as_stream(stream), [(array, layout_of(array), Kind.READ)], "the program's own work")

    def writes(self, array: object, stream: object) -> None:
        """Say that the next work on *stream* writes *array*, whether it reads it or not. Otherwise as :meth:`reads`."""
        self.accessed(as_stream(stream), [(array, layout_of(array), Kind.WRITE)], "the program's own work")

    def hear(self, thread: threading.Thread) -> None:
        """Say that *thread* has told the calling one that it is done so far, as by a message through a queue."""
        me = threading.current_thread()
        self._do(lambda: self._history.hear(me, thread))

    # -- what interop tells --------------------------------------------------------------------------------------

    def recorded(self, stream: ExternalStream, event: "Event") -> None:
        """See :class:`interop._order.watchers.Watcher`."""
        found = self._line(stream)
        handle, thread = event._handle_or_0(), threading.current_thread()

        def step() -> None:
            token = self._events.recorded(event, handle)
            if found is None:
                self._history.forget(token)  # it stands for a node of a graph now
            else:
                self._history.record(token, self._history.line(found), thread)

        self._do(step)

    def waited(self, stream: ExternalStream, event: "Event") -> None:
        """See :class:`interop._order.watchers.Watcher`."""
        found = self._line(stream)
        if found is None:
            return
        thread = threading.current_thread()
        # A watched library's event at a bare address is one whose records are seen, too.
        seen = event._owned or event._cuda.simulation is not None or stream.owner is SEEN
        doubt = "" if seen else self._doubt_of(event._adapter.library if event._adapter else None)

        def step() -> None:
            line, token = self._history.line(found), self._events.token(event)
            if not self._history.wait(line, token, thread) and not token.is_unrecorded:
                self._history.suppose(line, "it has waited for an event whose record was not seen")
            elif doubt:
                self._history.suppose(line, doubt)

        self._do(step)

    def joined(self, consumer: ExternalStream, producer: ExternalStream) -> None:
        """See :class:`interop._order.watchers.Watcher`."""
        # Either both capture, or none.
        reader = self._line(consumer)
        writer = None if reader is None else self._line(producer)
        thread = threading.current_thread()
        if reader is not None and writer is not None:
            self._do(lambda: self._history.join(self._history.line(reader), self._history.line(writer), thread))

    def finished(self, what: "ExternalStream | Event") -> None:
        """See :class:`interop._order.watchers.Watcher`."""
        thread = threading.current_thread()
        if not isinstance(what, ExternalStream):

            def step() -> None:
                token = self._events.token(what)
                if not token.is_unrecorded:
                    self._history.host_knows_event(token, thread)

            self._do(step)
        elif (found := self._line(what)) is not None:
            self._do(lambda: self._history.host_knows_stream(self._history.line(found), thread))

    def handed_over(
        self, array: object, tensor: "Tensor", producer: ExternalStream | None, consumer: ExternalStream
    ) -> None:
        """See :class:`interop._order.watchers.Watcher`."""
        reader = self._line(consumer)
        if reader is None:
            return
        writer = None if producer is None else self._line(producer)
        layout, name, place = of_tensor(tensor), described(array), where()
        thread = threading.current_thread()

        def before() -> None:
            line = self._history.line(reader)
            if writer is None:
                self._history.suppose(line, "an array that orders its consumers itself was handed to it")
            elif self._history.memory.is_untouched(layout):
                wrote = self._history.line(writer)
                party = Party("what was there before the hand-over", wrote.label, Kind.WRITE, name, place)
                self._history.work(wrote, [(party, layout)], thread)
                self._history.join(line, wrote, thread)

        self._do(before)
        self.accessed(consumer, [(array, layout, Kind.READ)], "whoever it was handed to")

    # -- what the libraries tell ---------------------------------------------------------------------------------

    def accessed(self, stream: ExternalStream, arrays: list[tuple[object, Layout, Kind]], by: str) -> None:
        """Add one piece of work.

        Args:
            stream: whose work it is.
            arrays: each array, or a description of it; where it lies; and what is done to it.
            by: what does it, in words.

        Raises:
            RaceError: it races with earlier work. Only if the ledger is strict; then it is not added.
        """
        found = self._line(stream)
        if found is None:
            return
        frame, thread = user_frame(), threading.current_thread()
        place = where(frame)
        touches = [
            (Party(by, found.label, kind, array if isinstance(array, str) else described(array), place), layout)
            for array, layout, kind in arrays
            if layout.start < layout.stop
        ]
        races: list[Finding] = []

        def step() -> _Tally:
            line = self._history.line(found)
            findings = self._look(line, touches, thread, frame)
            races[:] = [finding for finding in findings if not finding.doubt]
            if not (races and self._strict):
                self._history.work(line, touches, thread)
            return self._tally.plus(len(touches), findings)

        self._do(step, wait=True)
        if races and self._strict:
            raise races[0].error(races[1:])

    def noticed(self, stream: ExternalStream) -> None:
        """A stream was given to a library, as what it is."""
        if (found := self._line(stream)) is not None:
            self._do(lambda: self._take(found))

    def _take(self, line: Line) -> None:
        self._history.line(line)

    def given(self, stream: ExternalStream, layout: Layout, by: str) -> None:
        """A memory pool has given memory to a new array, for work on *stream*: not an access yet."""
        found = self._line(stream)
        if found is None:
            return
        frame, thread = user_frame(), threading.current_thread()
        party = Party(by, found.label, Kind.WRITE, f"memory at {layout.address:#x}", where(frame))
        doubt = "the work that will write to it cannot be seen, and may be ordered by then"

        def step() -> _Tally:
            findings = self._look(self._history.line(found), [(party, layout)], thread, frame)
            return self._tally.plus(0, [replace(finding, doubt=finding.doubt or doubt) for finding in findings])

        self._do(step)

    def is_fresh(self, layout: Layout) -> None:
        """Memory comes from the driver: whatever was there before, the driver has waited for."""
        self._do(lambda: self._history.memory.forget(layout))

    def is_left(self, layout: Layout, stream: ExternalStream) -> None:
        """A memory pool gives memory again: it has waited for what *stream* did to it."""
        if (found := self._line(stream)) is not None:
            self._do(lambda: self._history.memory.leave(layout, self._history.line(found)))

    def device_is_done(self, cuda: _cuda.Cuda, context: int) -> None:
        """The host has waited for all work of a context."""
        key, thread = (cuda, cuda.context_id(context)), threading.current_thread()
        self._do(lambda: self._history.host_knows_context(key, thread))

    def suppose_all(self, doubt: str) -> None:
        """Something out of sight may have ordered everything after everything so far."""
        self._do(lambda: self._history.suppose_all(doubt))

    def made(self, event: object) -> None:
        """A library has made an event. Until somebody records it, a wait for it orders nothing, for sure."""
        known = as_event(event)
        handle = known._handle_or_0()
        self._do(lambda: self._events.made(known, handle))

    # -- inside --------------------------------------------------------------------------------------------------

    def _do(self, step: Callable[[], _Tally | None], *, wait: bool = False) -> None:
        """Let a step be taken, alone, and in turn; with *wait*, not before it was.

        Otherwise nothing is waited for: finalisers come here, in the middle of another step too, and so do those who
        hold locks that finalisers take.

        A signal handler may raise in the middle of a step. Then the step is taken again before the next one, and has to
        bear that; it counts, and reports, when it is done.
        """
        self._steps.append(step)
        if not self._lock._is_owned():  # else in the middle of a step of this thread, which goes on with this one
            self._take_steps(wait=wait)

    def _settled(self) -> _Tally:
        """The tally, after all steps."""
        if not self._lock._is_owned():
            self._take_steps(wait=True)
        return self._tally

    def _take_steps(self, *, wait: bool) -> None:
        while wait or self._steps:
            # What a signal handler raises comes after a call: after `acquire`, that is, and not before `release`.
            try:
                if not self._lock.acquire(blocking=wait):
                    return
                while self._steps:
                    self._take_step(self._steps[0])
            finally:
                try:  # noqa: SIM105  (a call of Python's would come before the release)
                    self._lock.release()
                except RuntimeError:  # it was not acquired
                    pass
            wait = False

    def _take_step(self, step: Callable[[], _Tally | None]) -> None:
        try:
            tally = step()
        except Exception:
            if self._failed is step:  # not a signal handler's: it would fail for ever
                self._steps.popleft()
            self._failed = step
            raise
        # No call between these two: a signal handler raises before both, or after both.
        if tally is not None:
            self._tally = tally
        self._steps.popleft()

    def _look(
        self, line: Line, touches: list[tuple[Party, Layout]], thread: threading.Thread, frame: FrameType | None
    ) -> dict[Finding, None]:
        """What would conflict if *line* did all this next."""
        found: dict[Finding, None] = {}
        fixes = report.Fixes(frame)
        for party, layout in touches:
            for old, doubt in self._history.conflicts(line, party.kind, layout, thread):
                producer = cast("Line", old.epoch.line.key)
                found[Finding(old.party, party, fixes.line(line, producer), doubt)] = None
        return found

    def _line(self, stream: ExternalStream) -> Line | None:
        """The stream as the history knows it; None, and counted, while it captures. Asks CUDA, so not in a step."""
        cuda, handle = stream._cuda, stream._handle
        stream._usable_context()
        context, native = (cuda, stream._context_id), report.native_of(stream)
        if handle == _cuda.LEGACY:
            label = "the legacy default stream" + _on_device(stream)
            expression = f"{handle}, device={stream.device}"
            return Line((context, handle), context, StreamKind.LEGACY, label, native, expression)
        if stream.is_capturing():
            self._count_capture()
            return None
        if handle == _cuda.PER_THREAD:
            thread = threading.current_thread()
            label = f"the per-thread default stream of {thread.name}{_on_device(stream)}"
            expression = f"{handle}, device={stream.device}"
            own = (context, stream._thread)
            return Line(own, context, StreamKind.BLOCKING, label, native, expression, thread=thread)
        key = (cuda, stream.stream_id)
        known = self._history.lines.get(key)
        if known is not None:
            kind, label = known.kind, known.label
        else:
            kind = StreamKind.BLOCKING if cuda.stream_blocks(handle) else StreamKind.NON_BLOCKING
            label = _label(stream)
        return Line(key, context, kind, label, native, f"{handle:#x}", (cuda, handle), doubt=self._doubt_about(stream))

    def _count_capture(self) -> None:
        self._do(lambda: self._tally._replace(captured=self._tally.captured + 1))

    def _doubt_about(self, stream: ExternalStream) -> str:
        if stream._cuda.simulation is not None:
            return ""
        for library in stream._natives or ():
            if doubt := self._doubt_of(library):
                return doubt
        if isinstance(stream.owner, CreatedStream | _Seen):
            return ""
        return self._doubt_of(stream._adapter.library if stream._adapter else None)

    def _doubt_of(self, library: str | None) -> str:
        if library is None:
            return "waits that are made with a bare address, or by a library that interop does not know, cannot be seen"
        return "" if library in WATCHED else f"{library}'s own waits cannot be seen"

    def _forget(self, number: int, reference: object, token: Token) -> None:
        def step() -> None:
            self._events.remove(number, reference)
            self._history.forget(token)

        self._do(step)


class _Seen:
    """The owner of a stream that a library watched here was seen to use."""


SEEN: Final = _Seen()


def _on_device(stream: ExternalStream) -> str:
    return f" of device {stream.device}"


def _label(stream: ExternalStream) -> str:
    name = getattr(stream.owner, "name", None)
    if stream._cuda.simulation is not None and isinstance(name, str):
        return name
    library = f"{stream._adapter.library} " if stream._adapter else ""
    return f"{library}stream {stream._handle:#x}{_on_device(stream)}"
