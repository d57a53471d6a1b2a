"""The driver's eye: reads the recorded calls in their order, and finds what nothing orders.

The history decides, as it does for the calls that libraries report. Work that a stream captured into a graph is none
yet. What cannot be judged is in :attr:`Eye.blind`, in words.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from interop._order.findings import Finding, Kind, Party
from interop._show.text import plural
from interop.ledger.driver.calls import Call
from interop.ledger.driver.memory import Allocations, Part
from interop.ledger.driver.reports import Names, Stream, kept_line, library, missing_line, work_of
from interop.ledger.driver.streams import Streams
from interop.ledger.driver.touches import Kernels, Touches
from interop.ledger.driver.verdict import Verdict
from interop.ledger.history import History
from interop.ledger.layout import Layout, block
from interop.ledger.memory import Memory

_EXTERNAL: Final = 1
"""The flag of a record or a wait that stays one in a graph."""
_KNOWN: Final = 100_000
"""What so many different calls touch is remembered."""
_TIMES_DIFFER: Final = 100_000
"""PyTorch tells when its pool took memory back: in nanoseconds, how much earlier it may have been told."""
_IN_PARTS: Final = "one kernel was given the same array on several streams: each launch may touch another part of it"
_DRIVER_WAITS: Final = "the driver waits for all work when it frees memory, which CUDA does not promise"


class _Event:
    """What is known of an event that is not in the history.

    Attributes:
        is_new: whether it was made before our eyes, so that its first record is seen.
        is_captured: whether its last record is a part of a graph.
        context: the context that it was made in; 0 if that was not seen.
    """

    def __init__(self, *, is_new: bool, context: int = 0) -> None:
        self.is_new = is_new
        self.context = context
        self.is_captured = False


class Eye:
    """Judges recorded calls. Calls no CUDA; used by one thread at a time.

    Attributes:
        verdict: what was found.
        accesses: how many accesses were seen.
        captured: how many calls were left out, because their stream was capturing a graph.
    """

    def __init__(
        self,
        kernels: Kernels,
        name_of: Callable[[int], str] = lambda _: "",
        block_of: Callable[[int], tuple[int, int] | None] = lambda _: None,
    ) -> None:
        """Start with nothing known.

        Args:
            kernels: says what a kernel does with its parameters.
            name_of: gives the name of the stream at an address; empty if it has none.
            block_of: gives where the block of memory at an address begins and ends; None if there is none.
        """
        self.verdict = Verdict()
        self.accesses = 0
        self.captured = 0
        self._history = History()
        self._memory = Allocations(block_of)
        self._touches = Touches(self._memory, kernels, self.verdict.unsure)
        self._names = Names(name_of)
        self._streams = Streams(self._history, self._names, self.verdict)
        self._events: dict[int, _Event] = {}
        self._parts = itertools.count(1)
        self._pools: set[int] = set()
        self._graph_events: set[_Event] = set()
        self._graphs_wait = False
        self._lost = 0
        self._split: dict[tuple[int, int], None] = {}  # arrays that one kernel was given on streams without order
        self._known: dict[tuple[object, ...], list[tuple[Party, Layout]]] = {}
        self._takes: Final[dict[str, Callable[[Call], None]]] = {
            "launch": self._work,
            "copy": self._copy,
            "set": self._work,
            "host copy": self._copy,
            "host set": self._work,
            "array": self._declared,
            "record": self._record,
            "wait": self._wait,
            "stream done": self._stream_done,
            "event done": self._event_done,
            "context done": self._context_done,
            "alloc": self._alloc,
            "free": self._free,
            "host alloc": self._alloc,
            "host free": self._free,
            "pool alloc": self._alloc,
            "pool free": self._pool_free,
            "stream made": self._streams.made,
            "stream gone": self._streams.gone,
            "event made": self._event_made,
            "event gone": self._event_gone,
            "graph launch": self._graph_launch,
            "host function": self._hold,
            "value wait": self._hold,
            "unseen": self._unseen,
            "module": self._code_changed,
        }

    def take(self, calls: Iterable[Call]) -> None:
        """Judge *calls*, which come after those that were taken before."""
        takes = self._takes
        for call in calls:
            take = takes.get(call.kind)
            if take is not None:
                self._streams.context = call.context or self._streams.context
                take(call)

    def forget_accesses(self) -> None:
        """Forget all accesses so far. What is allocated, and what orders what, is still known."""
        self._history.memory = Memory()

    def lose(self, lost: int) -> None:
        """So many records were lost so far: whatever they were may have ordered everything."""
        if lost > self._lost:
            self._lost = lost
            self.doubt(f"{plural(lost, 'record')} of calls found no room and were lost")

    def doubt(self, why: str) -> None:
        """Calls were left out: nothing is certain. *why* says why."""
        self.verdict.doubt(why)
        self._history.assume_all_ordered(why)

    @property
    def findings(self) -> dict[Finding, int]:
        """What was found, and how often."""
        return self.verdict.findings

    @property
    def blind(self) -> list[str]:
        """What was seen and could not be judged, in words."""
        return self.verdict.blind

    # -- events --------------------------------------------------------------------------------------------------

    def _event(self, handle: int) -> _Event:
        return self._events.setdefault(handle, _Event(is_new=False))

    def _event_made(self, call: Call) -> None:
        self._event_gone(call)
        self._events[call.a] = _Event(is_new=call.name != "cuIpcOpenEventHandle", context=call.context)

    def _event_gone(self, call: Call) -> None:
        if (event := self._events.pop(call.a, None)) is not None:
            self._history.forget(event)
            self._graph_events.discard(event)

    def _record(self, call: Call) -> None:
        event = self._event(call.a)
        event.is_captured = call.capturing and not call.b & _EXTERNAL
        if call.capturing:
            self.captured += 1
            if call.b & _EXTERNAL:
                self._graph_events.add(event)
        elif not self._streams.is_destroyed(call):
            self._history.record(event, self._streams.of(call), self._streams.thread(call))

    def _wait(self, call: Call) -> None:
        event = self._event(call.a)
        if call.capturing or event.is_captured:
            self.captured += 1
            self._graphs_wait |= bool(call.capturing and call.b & _EXTERNAL)
        elif not self._streams.is_destroyed(call):
            stream = self._streams.of(call)
            if not self._history.wait(stream, event, self._streams.thread(call)) and not event.is_new:
                self._history.assume_ordered(stream, "it has waited for an event whose record was not seen")

    # -- what the host waits for ---------------------------------------------------------------------------------

    def _stream_done(self, call: Call) -> None:
        if not self._streams.is_destroyed(call):
            self._history.host_knows_stream(self._streams.of(call), self._streams.thread(call))

    def _context_done(self, call: Call) -> None:
        self._history.host_knows_context(call.a or call.context, self._streams.thread(call))

    def _event_done(self, call: Call) -> None:
        event = self._event(call.a)
        if not event.is_new or self._history.is_recorded(event):
            self._history.host_knows_event(event, self._streams.thread(call))

    # -- what may order out of sight -----------------------------------------------------------------------------

    def _graph_launch(self, call: Call) -> None:
        if call.capturing:
            self.captured += 1
            return
        self.verdict.not_seen("{} launches of graphs: what their kernels do, and which events they record, is not seen")
        if not self._streams.is_destroyed(call):
            stream = self._streams.of(call)
            if self._graphs_wait:
                self._history.assume_ordered(stream, "a graph that was launched on it may wait for events")
            self._history.work(stream, [], self._streams.thread(call))
        for event in self._graph_events:
            event.is_new = False
            self._history.forget(event)

    def _hold(self, call: Call) -> None:
        if call.capturing:
            self.captured += 1
            return
        what = "a function on the host" if call.kind == "host function" else "a value in memory"
        self.verdict.not_seen(f"{{}} waits of streams for {what}: what they order is not seen")
        if not self._streams.is_destroyed(call):
            self._history.hold(self._streams.of(call), f"a stream waits for {what}", self._streams.thread(call))

    def _unseen(self, call: Call) -> None:
        if call.name == "cuCtxRecordEvent" and (event := self._event(call.a)).context:
            self._history.record_context(event, event.context, self._streams.thread(call))
            return
        self.verdict.not_seen(f"{{}} calls of {call.name}: what it touches or orders is not followed")
        if call.name == "cuCtxWaitEvent":
            self._history.assume_all_ordered(f"what {call.name} orders is not followed")
        elif call.name == "cuCtxRecordEvent":
            event.is_new = False
            self._history.forget(event)
        elif call.stream and not call.capturing:
            self._history.work(self._streams.of(call), [], self._streams.thread(call))
        elif not call.stream:
            self._history.assume_host_knows_context(call.context, f"{call.name} waits for work before it")

    # -- memory --------------------------------------------------------------------------------------------------

    def _alloc(self, call: Call) -> None:
        self._known.clear()
        pooled = call.kind == "pool alloc"
        on_host = call.kind == "host alloc"
        part = Part(call.a, call.a + call.c, next(self._parts), self._names.memory(call), on_host, pooled)
        if pooled:
            if call.thread:
                self._pools.add(call.thread)
            self._memory.add(part)
            return
        if call.name == "cuMemMap":
            self._memory.map(part)
        else:
            self._memory.add(part)
        if on_host or call.name == "cuMemAllocManaged":
            self.verdict.not_seen(
                "{} allocations of memory that the host uses too: what the host does with it is not seen"
            )
        layout = block(part.start, part.stop - part.start)
        self._history.memory.forget(layout)
        if call.stream and not call.capturing:
            self._add(call, [(self._party(call, call.name, Kind.ALLOCATE, part), layout)])

    def _free(self, call: Call) -> None:
        if call.capturing:
            return
        self._known.clear()
        part = self._memory.unmap(call.a) if self._memory.is_mapped(call.a) else self._memory.free(call.a, pooled=False)
        if part is None:
            if call.a:
                self.verdict.not_seen(
                    "{} blocks of memory, older than the record: what had touched them before their end"
                )
            return
        layout = block(part.start, part.stop - part.start)
        part.freed = self._party(call, call.name, Kind.FREE, part)
        if call.stream:
            self._add(call, [(part.freed, layout)])
        else:
            self._history.assume_host_knows_context(call.context, _DRIVER_WAITS)
            self._history.memory.forget(layout)

    def _pool_free(self, call: Call) -> None:
        self._known.clear()
        if call.thread:  # else the library tells the time only
            self._pools.add(call.thread)
        part = self._memory.free(call.a, pooled=True)
        if part is not None:
            part.freed = self._party(call, "the pool", Kind.FREE, part)
            part.freed_at = call.time

    # -- work ----------------------------------------------------------------------------------------------------

    def _work(self, call: Call) -> None:
        if call.capturing:
            self.captured += 1
            return
        if self._streams.is_destroyed(call):
            return
        if call.kind == "launch":
            if not call.walked:
                self.verdict.not_seen("{} launches whose parameters could not be read")
            if call.b:
                self.verdict.not_seen(
                    "{} launches with attributes: one lets a kernel start before the work before it has ended"
                )
        key = (
            call.stream,
            call.thread,
            call.name,
            call.symbol,
            call.words,
            call.a,
            call.b,
            call.c,
            call.d,
            self._names.line(call.place),
        )
        touches = self._known.get(key)
        if touches is None:
            touches = self._touched(call)
            if len(self._known) > _KNOWN:
                self._known.clear()
            self._known[key] = touches
        self._add(call, touches)

    def _copy(self, call: Call) -> None:
        """A copy. The host waits for it if the call says so, or if it is to memory of the host that is not pinned."""
        self._work(call)
        to, source = self._memory.find(call.a), self._memory.find(call.b)
        if call.kind == "host copy":
            # From memory of the device to such, the host does not wait.
            waits = "DtoD" not in call.name and (to is None or source is None or to.on_host or source.on_host)
        else:
            waits = "DtoH" in call.name and to is None and not call.capturing
        if waits:
            self._history.host_knows_stream(self._streams.of(call), self._streams.thread(call))

    def _declared(self, call: Call) -> None:
        """What the program says of its next work; or that another thread has told the calling one that it is done."""
        if not call.d:
            if (other := self._streams.threads.get(call.a)) is not None:
                self._history.hear(self._streams.thread(call), other)
            return
        part = self._memory.find(call.a)
        party = self._party(call, "the program's own work", Kind(call.d), part, call.a)
        self._add(call, [(party, block(call.a, call.c))])

    def _touched(self, call: Call) -> list[tuple[Party, Layout]]:
        """The accesses of a call. Those of memory that was freed are reported, and left out."""
        touches = []
        by, stream = work_of(call), self._streams.of(call)
        if call.kind == "launch":
            stream.libraries.add(library(call))
        for kind, layout, part, doubt in self._touches.of(call):
            party = self._party(call, by, kind, part, layout.start, doubt)
            if part is not None and part.freed is not None and self._is_told(call, part):
                self._use_after_free(call, part, party)
            else:
                touches.append((party, layout))
        return touches

    def _is_told(self, call: Call, part: Part) -> bool:
        """Whether it is told if the pool has given the memory again: so it is in threads that tell of their pools."""
        return not part.is_pooled or call.thread in self._pools or call.time > part.freed_at + _TIMES_DIFFER

    def _use_after_free(self, call: Call, part: Part, party: Party) -> None:
        doubt = party.doubt
        if part.is_pooled and not {call.thread, *self._streams.threads} <= self._pools:
            doubt = doubt or "the pool may have given the memory to another thread, where pools are not seen"
        assert part.freed is not None
        self.verdict.find(Finding(part.freed, party, "free the memory after its last use", doubt))

    def _party(self, call: Call, by: str, kind: Kind, part: Part | None, start: int = 0, doubt: str = "") -> Party:
        where = self._names.where(call.place)[0]
        stream = self._streams.label(call) if call.stream else "the host"
        label, number = f"the memory at {start:#x}", 0
        if part is not None:
            part.label = part.label or self._names.used(call, part.start)
            label, number = part.label, part.number
            if start > part.start:
                label += f", from byte {start - part.start} on"
        return Party(by, stream, kind, label, where, doubt, number)

    def _add(self, call: Call, touches: list[tuple[Party, Layout]]) -> None:
        """Judge one piece of work, and add it to the history."""
        history, stream, thread = self._history, self._streams.of(call), self._streams.thread(call)
        if doubt := history.doubt(stream, thread):
            touches = [(replace(party, doubt=party.doubt or doubt), layout) for party, layout in touches]
        found = history.add(stream, touches, thread)
        for old, party, layout, _ in found:
            if old.party.by == party.by and old.layout.is_bare and layout.is_bare:
                self._split[party.memory, layout.start] = None
        for old, party, layout, why in found:
            producer = old.epoch.line.key
            assert isinstance(producer, Stream)
            is_split = old.layout.is_bare and layout.is_bare and (party.memory, layout.start) in self._split
            finding = Finding(old.party, party, missing_line(stream, producer), why or (_IN_PARTS if is_split else ""))
            if finding.what == "reuse of freed memory":
                finding = replace(finding, fix=kept_line(stream, producer))
            self.verdict.find(finding)
        self.accesses += len(touches)

    def _code_changed(self, call: Call) -> None:
        del call
        self._known.clear()
        self._touches.code_changed()
