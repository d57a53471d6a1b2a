"""The vector clocks, rule by rule, and against two oracles: PyTorch's own, and a graph that is searched."""

import importlib
import itertools
import random
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interop._order import accesses, ended
from interop.ordering import Access, Accesses, Clock, Clocks, Epoch, Line, StreamKind

MAIN, OTHER = "main", "other"
KINDS = {
    "legacy": StreamKind.LEGACY,
    "a": StreamKind.BLOCKING,
    "b": StreamKind.BLOCKING,
    "x": StreamKind.NON_BLOCKING,
    "y": StreamKind.NON_BLOCKING,
}


@pytest.fixture
def clocks() -> Clocks:
    clocks = Clocks()
    for stream, kind in KINDS.items():
        clocks.add_stream(stream, context="here", kind=kind)
    clocks.add_stream("far", context="there", kind=StreamKind.BLOCKING)
    for thread in (MAIN, OTHER):
        clocks.add_thread(thread)
    return clocks


def test_a_stream_is_in_order(clocks: Clocks) -> None:
    first = clocks.enqueue("x", MAIN)
    assert clocks.happens_before(first, "x", MAIN)
    assert clocks.happens_before(first, "x", OTHER)
    assert not clocks.happens_before(first, "y", MAIN)


def test_epochs_count_the_work_of_a_stream(clocks: Clocks) -> None:
    epochs = [clocks.enqueue(stream, MAIN) for stream in ("x", "y", "x")]
    assert [(epoch.line.key, epoch.number) for epoch in epochs] == [("x", 1), ("y", 1), ("x", 2)]


def test_a_wait_orders_what_was_recorded(clocks: Clocks) -> None:
    before = clocks.enqueue("x", MAIN)
    clocks.record("event", "x", MAIN)
    after = clocks.enqueue("x", MAIN)
    clocks.wait("y", "event", MAIN)
    assert clocks.happens_before(before, "y", MAIN)
    assert not clocks.happens_before(after, "y", MAIN)


def test_a_wait_binds_when_it_is_called(clocks: Clocks) -> None:
    clocks.record("event", "x", MAIN)
    clocks.wait("y", "event", MAIN)
    later = clocks.enqueue("x", MAIN)
    clocks.record("event", "x", MAIN)
    assert not clocks.happens_before(later, "y", MAIN)
    clocks.wait("y", "event", MAIN)
    assert clocks.happens_before(later, "y", MAIN)


def test_recording_again_replaces(clocks: Clocks) -> None:
    first = clocks.enqueue("x", MAIN)
    clocks.record("event", "x", MAIN)
    clocks.record("event", "y", MAIN)
    clocks.wait("far", "event", MAIN)
    assert not clocks.happens_before(first, "far", MAIN)


def test_a_record_of_a_context_covers_its_streams_so_far(clocks: Clocks) -> None:
    work = [clocks.enqueue(stream, MAIN) for stream in ("x", "a", "legacy")]
    far = clocks.enqueue("far", MAIN)
    clocks.remove_stream("x")
    clocks.record_context("event", "here", MAIN)
    later = clocks.enqueue("a", MAIN)
    clocks.wait("y", "event", MAIN)
    assert [clocks.happens_before(each, "y", MAIN) for each in (*work, far, later)] == [True] * 3 + [False] * 2


def test_an_event_without_a_record_orders_nothing(clocks: Clocks) -> None:
    first = clocks.enqueue("x", MAIN)
    clocks.wait("y", "event", MAIN)
    clocks.synchronize_event("event", MAIN)
    assert not clocks.is_recorded("event")
    assert not clocks.happens_before(first, "y", MAIN)
    assert not clocks.is_known(first, MAIN)


def test_a_forgotten_event_orders_nothing(clocks: Clocks) -> None:
    first = clocks.enqueue("x", MAIN)
    clocks.record("event", "x", MAIN)
    clocks.forget_event("event")
    clocks.wait("y", "event", MAIN)
    assert not clocks.happens_before(first, "y", MAIN)


def test_legacy_is_ordered_with_blocking_streams_both_ways(clocks: Clocks) -> None:
    first = clocks.enqueue("a", MAIN)
    assert clocks.happens_before(first, "legacy", MAIN)
    assert not clocks.happens_before(first, "b", MAIN)
    second = clocks.enqueue("legacy", MAIN)
    assert clocks.happens_before(first, "b", MAIN)
    assert clocks.happens_before(second, "b", MAIN)


def test_legacy_leaves_non_blocking_streams_and_other_contexts_alone(clocks: Clocks) -> None:
    work = clocks.enqueue("legacy", MAIN)
    assert not clocks.happens_before(work, "x", MAIN)
    assert not clocks.happens_before(work, "far", MAIN)
    for stream in ("x", "far"):
        assert not clocks.happens_before(clocks.enqueue(stream, MAIN), "legacy", MAIN)


def test_a_record_on_legacy_is_work_there(clocks: Clocks) -> None:
    first = clocks.enqueue("a", MAIN)
    clocks.record("event", "legacy", MAIN)
    assert clocks.happens_before(first, "b", MAIN)


def test_a_wait_on_legacy_is_work_there(clocks: Clocks) -> None:
    far, near = clocks.enqueue("x", MAIN), clocks.enqueue("a", MAIN)
    clocks.record("event", "x", MAIN)
    clocks.wait("legacy", "event", MAIN)
    assert clocks.happens_before(far, "b", MAIN)
    assert clocks.happens_before(near, "b", MAIN)


def test_a_record_on_a_blocking_stream_is_a_snapshot_that_includes_legacy(clocks: Clocks) -> None:
    work = clocks.enqueue("legacy", MAIN)
    clocks.record("event", "a", MAIN)
    assert clocks.of_event("event").knows(work)
    assert not clocks.of_stream("a").knows(work)


def test_legacy_answers_for_blocking_streams(clocks: Clocks) -> None:
    blocking, exempt = clocks.enqueue("a", MAIN), clocks.enqueue("x", MAIN)
    clocks.synchronize_stream("legacy", MAIN)
    assert clocks.is_known(blocking, MAIN)
    assert not clocks.is_known(exempt, MAIN)
    # To synchronize is not work: for another thread, the two blocking streams stay unordered.
    assert not clocks.happens_before(blocking, "b", OTHER)


def test_a_host_thread_orders_what_it_enqueues_after_what_it_knows(clocks: Clocks) -> None:
    work = clocks.enqueue("x", MAIN)
    clocks.synchronize_stream("x", MAIN)
    assert clocks.happens_before(work, "y", MAIN)
    assert not clocks.happens_before(work, "y", OTHER)
    clocks.hear(OTHER, MAIN)
    assert clocks.happens_before(work, "y", OTHER)


def test_what_a_thread_enqueues_carries_what_it_knew_to_others(clocks: Clocks) -> None:
    work = clocks.enqueue("x", MAIN)
    clocks.synchronize_stream("x", MAIN)
    clocks.enqueue("y", MAIN)
    assert clocks.happens_before(work, "y", OTHER)
    clocks.record("event", "far", MAIN)
    clocks.synchronize_event("event", OTHER)
    assert clocks.is_known(work, OTHER)


def test_a_host_access_comes_before_what_its_thread_enqueues(clocks: Clocks) -> None:
    access = clocks.access(MAIN)
    assert clocks.is_known(access, MAIN)
    assert clocks.happens_before(access, "x", MAIN)
    assert not clocks.happens_before(access, "x", OTHER)


def test_a_thread_and_a_stream_may_have_one_key() -> None:
    clocks = Clocks()
    clocks.add_stream(1, context=1, kind=StreamKind.NON_BLOCKING)
    assert clocks.enqueue(1, 1) != clocks.access(1)


def test_synchronizing_a_context(clocks: Clocks) -> None:
    inside, outside = clocks.enqueue("x", MAIN), clocks.enqueue("far", MAIN)
    clocks.synchronize_context("here", MAIN)
    assert clocks.is_known(inside, MAIN)
    assert not clocks.is_known(outside, MAIN)


def test_the_work_of_a_destroyed_stream_belongs_to_its_context(clocks: Clocks) -> None:
    work = clocks.enqueue("x", MAIN)
    clocks.remove_stream("x")
    assert "x" not in clocks
    assert clocks.of_context("here").knows(work)
    clocks.synchronize_context("here", MAIN)
    assert clocks.is_known(work, MAIN)


@pytest.mark.parametrize(("stream", "waits"), [("a", True), ("x", False)])
def test_legacy_waits_for_a_destroyed_blocking_stream(clocks: Clocks, stream: str, *, waits: bool) -> None:
    work = clocks.enqueue(stream, MAIN)
    clocks.remove_stream(stream)
    assert clocks.of_stream("legacy").knows(work) is waits
    clocks.enqueue("legacy", MAIN)
    assert clocks.happens_before(work, "b", MAIN) is waits


def test_a_blocking_stream_that_is_made_later_waits_for_legacy(clocks: Clocks) -> None:
    work = clocks.enqueue("legacy", MAIN)
    clocks.add_stream("late", context="here", kind=StreamKind.BLOCKING)
    clocks.add_stream("free", context="here", kind=StreamKind.NON_BLOCKING)
    assert clocks.happens_before(work, "late", MAIN)
    assert not clocks.happens_before(work, "free", MAIN)


def test_streams_are_added_once_and_before_they_are_used(clocks: Clocks) -> None:
    with pytest.raises(ValueError, match="added before"):
        clocks.add_stream("x", context="here", kind=StreamKind.BLOCKING)
    with pytest.raises(ValueError, match="legacy stream already"):
        clocks.add_stream("second", context="here", kind=StreamKind.LEGACY)
    assert "second" not in clocks
    with pytest.raises(KeyError):
        clocks.enqueue("second", MAIN)


def test_questions_change_nothing(clocks: Clocks) -> None:
    work = clocks.enqueue("a", MAIN)
    for stream in KINDS:
        clocks.before_next(stream, MAIN)
        clocks.of_stream(stream)
    clocks.of_context("here")
    assert not clocks.happens_before(work, "b", MAIN)
    assert clocks.enqueue("a", MAIN) == (work.line, 2)


def test_a_clock_shows_what_it_knows() -> None:
    clock, line = Clock(), Line("x")
    clock.tick(line)
    assert repr(clock) == f"Clock({{{line.number}: 1}})"


# -- accesses ----------------------------------------------------------------------------------------------------


def test_two_reads_do_not_conflict(clocks: Clocks) -> None:
    accesses: Accesses[str] = Accesses()
    touch(accesses, clocks, "x", "first", writes=False)
    assert touch(accesses, clocks, "y", "second", writes=False) == []
    assert touch(accesses, clocks, "far", "third", writes=True) == ["first", "second"]


def test_a_write_conflicts_with_what_is_not_ordered_before_it(clocks: Clocks) -> None:
    accesses: Accesses[str] = Accesses()
    touch(accesses, clocks, "x", "write", writes=True)
    assert touch(accesses, clocks, "x", "again", writes=True) == []
    assert touch(accesses, clocks, "y", "read", writes=False) == ["again"]
    clocks.synchronize_stream("x", MAIN)
    assert touch(accesses, clocks, "far", "late", writes=True) == ["read"]


def touch(accesses: Accesses[str], clocks: Clocks, stream: str, who: str, *, writes: bool) -> list[str]:
    known = clocks.before_next(stream, MAIN)
    found = [access.who for access in accesses.conflicts(known, writes=writes)]
    accesses.add(Access(who, clocks.enqueue(stream, MAIN), writes), known)
    return found


# -- oracles -----------------------------------------------------------------------------------------------------

EVENTS = ["e", "f", "g"]
Step = tuple[str, ...]


class PyTorch:
    """The clocks of PyTorch's CUDA sanitizer, with the names of ours."""

    STREAMS = ("legacy", "x", "y", "z")

    def __init__(self) -> None:
        self.model: Any = importlib.import_module("torch.cuda._sanitizer").StreamSynchronizations()
        self.count = 0
        for number in range(len(self.STREAMS)):
            self.model.create_stream(number)
        for number in range(len(EVENTS)):
            self.model.create_event(number)

    def enqueue(self, stream: str, _thread: str) -> tuple[int, int]:
        self.count += 1
        self.model.update_seq_num(self.STREAMS.index(stream), self.count)
        return self.STREAMS.index(stream), self.count

    def record(self, event: str, stream: str, _thread: str) -> None:
        self.model.record_state(EVENTS.index(event), self.STREAMS.index(stream))

    def wait(self, stream: str, event: str, _thread: str) -> None:
        self.model.stream_wait_for_event(self.STREAMS.index(stream), EVENTS.index(event))

    def synchronize_stream(self, stream: str, _thread: str) -> None:
        self.model.all_streams_wait_for_stream(self.STREAMS.index(stream))

    def synchronize_event(self, event: str, _thread: str) -> None:
        self.model.all_streams_wait_for_event(EVENTS.index(event))

    def synchronize_context(self, _context: str, _thread: str) -> None:
        self.model.sync_all_streams()

    def happens_before(self, work: tuple[int, int], stream: str) -> bool:
        origin, number = work
        return bool(self.model.is_ordered_after(self.STREAMS.index(stream), number, origin))


def programs(streams: list[str], threads: list[str], *more: st.SearchStrategy[Step]) -> st.SearchStrategy[list[Step]]:
    stream, event, thread = st.sampled_from(streams), st.sampled_from(EVENTS), st.sampled_from(threads)
    steps = st.one_of(
        st.tuples(st.just("enqueue"), stream, thread),
        st.tuples(st.just("enqueue"), stream, thread),
        st.tuples(st.just("record"), event, stream, thread),
        st.tuples(st.just("wait"), stream, event, thread),
        st.tuples(st.just("synchronize_stream"), stream, thread),
        st.tuples(st.just("synchronize_event"), event, thread),
        *more,
    )
    return st.lists(steps, max_size=25)


@pytest.mark.needs("torch")
@settings(max_examples=300, deadline=None, derandomize=True)
@given(programs(list(PyTorch.STREAMS), [MAIN], st.just(("synchronize_context", "here", MAIN))))
def test_the_clocks_agree_with_pytorch(program: list[Step]) -> None:
    # Where the two are meant to agree: one host thread, and no blocking stream beside the legacy one. PyTorch's model
    #   - takes the legacy stream for any other. CUDA orders it with every blocking stream, and its own streams, being
    #     non-blocking, never show the difference; those of other libraries do;
    #   - has one host for all threads, so that what one thread waited for counts for what any other enqueues. That
    #     hides the race of two threads that do not wait for each other.
    theirs, ours = PyTorch(), Clocks()
    for stream in PyTorch.STREAMS:
        kind = StreamKind.LEGACY if stream == "legacy" else StreamKind.NON_BLOCKING
        ours.add_stream(stream, context="here", kind=kind)
    works: list[tuple[Epoch, tuple[int, int]]] = []
    for step, *arguments in program:
        number, epoch = getattr(theirs, step)(*arguments), getattr(ours, step)(*arguments)
        if number is not None:
            works.append((epoch, number))
    for epoch, number in works:
        for stream in PyTorch.STREAMS:
            assert ours.happens_before(epoch, stream, MAIN) == theirs.happens_before(number, stream)


@dataclass
class Graph:
    """Every operation as a node, every rule as edges to it; "before" means that there is a path."""

    kinds: dict[str, StreamKind]
    before: list[frozenset[int]] = field(default_factory=list)
    tails: dict[Hashable, int] = field(default_factory=dict)
    gone: list[int] = field(default_factory=list)
    gone_blocking: list[int] = field(default_factory=list)

    def add(self, *sources: int | None) -> int:
        """A node with all its ancestors, and itself."""
        known = [self.before[source] for source in sources if source is not None]
        self.before.append(frozenset({len(self.before)}.union(*known)))
        return len(self.before) - 1

    def tail(self, key: Hashable) -> int | None:
        return self.tails.get(key)

    def blocking(self) -> list[int | None]:
        there = [self.tail(stream) for stream, kind in self.kinds.items() if kind is StreamKind.BLOCKING]
        return [*there, *self.gone_blocking]

    def next(self, stream: str, thread: str) -> list[int | None]:
        """What the next work comes after."""
        sources = [self.tail(stream), self.tail(("host", thread))]
        if self.kinds[stream] is StreamKind.LEGACY:
            sources += self.blocking()
        if self.kinds[stream] is StreamKind.BLOCKING:
            sources.append(self.tail("legacy"))
        return sources

    def enqueue(self, stream: str, thread: str) -> int:
        self.tails[stream] = self.add(*self.next(stream, thread))
        return self.tails[stream]

    def access(self, thread: str) -> int:
        self.tails["host", thread] = self.add(self.tail(("host", thread)))
        return self.tails["host", thread]

    def record(self, event: str, stream: str, thread: str) -> None:
        node = self.add(*self.next(stream, thread))
        self.tails["event", event] = node
        if self.kinds[stream] is StreamKind.LEGACY:
            self.tails[stream] = node

    def wait(self, stream: str, event: str, thread: str) -> None:
        recorded = self.tail(("event", event))
        if recorded is None:
            return
        is_legacy = self.kinds[stream] is StreamKind.LEGACY
        sources = self.next(stream, thread) if is_legacy else [self.tail(stream)]
        self.tails[stream] = self.add(recorded, *sources)

    def synchronize_stream(self, stream: str, thread: str) -> None:
        more = self.blocking() if self.kinds[stream] is StreamKind.LEGACY else []
        self.hear_of(thread, self.tail(stream), *more)

    def synchronize_event(self, event: str, thread: str) -> None:
        self.hear_of(thread, self.tail(("event", event)))

    def synchronize_context(self, _context: str, thread: str) -> None:
        self.hear_of(thread, *self.gone, *(self.tail(stream) for stream in self.kinds))

    def hear(self, thread: str, other: str) -> None:
        self.hear_of(thread, self.tail(("host", other)))

    def remove_stream(self, stream: str) -> None:
        kind = self.kinds.pop(stream)
        if stream in self.tails:
            self.gone.append(self.tails.pop(stream))
            if kind is StreamKind.BLOCKING:
                self.gone_blocking.append(self.gone[-1])

    def hear_of(self, thread: str, *nodes: int | None) -> None:
        self.tails["host", thread] = self.add(self.tail(("host", thread)), *nodes)

    def is_before(self, node: int, sources: list[int | None]) -> bool:
        return any(node in self.before[source] for source in sources if source is not None)


MORE = (
    st.tuples(st.just("synchronize_context"), st.just("here"), st.sampled_from([MAIN, OTHER])),
    st.tuples(st.just("hear"), st.sampled_from([MAIN, OTHER]), st.sampled_from([MAIN, OTHER])),
    st.tuples(st.just("access"), st.sampled_from([MAIN, OTHER])),
    st.tuples(st.just("remove_stream"), st.sampled_from(["b", "y"])),
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(programs(list(KINDS), [MAIN, OTHER], *MORE))
def test_the_clocks_agree_with_a_search_of_the_graph(program: list[Step]) -> None:
    graph, clocks = Graph(dict(KINDS)), Clocks()
    for stream, kind in KINDS.items():
        clocks.add_stream(stream, context="here", kind=kind)
    for thread in (MAIN, OTHER):
        clocks.add_thread(thread)
    works: list[tuple[Epoch, int]] = []
    for step, *arguments in program:
        if any(argument in KINDS and argument not in graph.kinds for argument in arguments):
            continue
        node, epoch = getattr(graph, step)(*arguments), getattr(clocks, step)(*arguments)
        if node is not None:
            works.append((epoch, node))
    for epoch, node in works:
        for thread in (MAIN, OTHER):
            assert clocks.is_known(epoch, thread) == graph.is_before(node, [graph.tail(("host", thread))])
            for stream in graph.kinds:
                expected = graph.is_before(node, graph.next(stream, thread))
                assert clocks.happens_before(epoch, stream, thread) == expected
        for event in EVENTS:
            assert clocks.of_event(event).knows(epoch) == graph.is_before(node, [graph.tail(("event", event))])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(programs(["legacy", "a", "b", "x", "y"], [MAIN]), st.lists(st.booleans(), min_size=25, max_size=25))
def test_no_access_is_dropped_that_a_later_one_could_conflict_with(program: list[Step], writes: list[bool]) -> None:
    clocks, accesses = Clocks(), Accesses[int]()
    for stream, kind in KINDS.items():
        clocks.add_stream(stream, context="here", kind=kind)
    everything: list[Access[int]] = []
    for number, (step, *arguments) in enumerate(program):
        if step != "enqueue":
            getattr(clocks, step)(*arguments)
            continue
        known = clocks.before_next(*arguments)
        reported = accesses.conflicts(known, writes=writes[number])
        conflicting = [
            access for access in everything if (access.writes or writes[number]) and not known.knows(access.epoch)
        ]
        # A conflict may stand for earlier ones. But no race is missed, and none is reported that is not there.
        assert set(reported) <= set(conflicting)
        assert bool(reported) == bool(conflicting)
        access = Access(number, clocks.enqueue(arguments[0], arguments[1]), writes[number])
        accesses.add(access, known)
        everything.append(access)


# -- what has ended ------------------------------------------------------------------------------------------------


class Life:
    """A random program in which streams, threads and events come and go, followed by the clocks and by a graph."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.graph, self.clocks = Graph({}), Clocks()
        self.names = itertools.count()
        self.threads: list[str] = []
        self.epochs: list[tuple[Epoch, int]] = []
        self.accesses = Accesses[int]()
        self.touched: list[tuple[int, bool, bool]] = []
        self.add_stream("legacy", StreamKind.LEGACY)
        self.add_thread()

    def add_stream(self, name: str, kind: StreamKind) -> None:
        self.graph.kinds[name] = kind
        self.clocks.add_stream(name, context="here", kind=kind)

    def add_thread(self) -> None:
        thread = f"thread {next(self.names)}"
        self.graph.hear_of(thread, *(self.graph.tail(("host", other)) for other in (*self.threads, "ended")))
        self.clocks.add_thread(thread)
        self.threads.append(thread)

    def end_thread(self, thread: str) -> None:
        self.threads.remove(thread)
        for other in (*self.threads, "ended"):
            self.graph.hear(other, thread)
        self.clocks.end_thread(thread)

    def step(self) -> None:
        """Do one thing, and keep its epoch for a while."""
        choose = self.random.choice
        thread, event, stream = choose(self.threads), choose(EVENTS), choose(list(self.graph.kinds))
        calls = [
            ("record", event, stream, thread),
            ("wait", stream, event, thread),
            ("wait", stream, event, thread),
            ("synchronize_event", event, thread),
            ("synchronize_context", "here", thread),
            ("synchronize_stream", stream, thread),
            ("hear", thread, choose(self.threads)),
        ]
        match self.random.randrange(4):
            case 0:
                self.come_or_go(stream, thread)
            case 1:
                self.both(*choose(calls))
            case _:
                self.touch(thread, choose([stream, stream, None]))
        if len(self.epochs) > 20:
            del self.epochs[self.random.randrange(len(self.epochs))]

    def come_or_go(self, stream: str, thread: str) -> None:
        match self.random.randrange(5):
            case 0 | 1 if len(self.graph.kinds) < 5:
                kind = self.random.choice([StreamKind.BLOCKING, StreamKind.NON_BLOCKING])
                self.add_stream(f"stream {next(self.names)}", kind)
            case 2 if stream != "legacy":
                self.graph.remove_stream(stream)
                self.clocks.remove_stream(stream)
            case 3 if len(self.threads) < 3:
                self.add_thread()
            case 4 if len(self.threads) > 1:
                self.end_thread(thread)

    def both(self, call: str, *arguments: str) -> tuple[int, Epoch]:
        return getattr(self.graph, call)(*arguments), getattr(self.clocks, call)(*arguments)

    def touch(self, thread: str, stream: str | None) -> None:
        """Access the buffer: what the accesses say conflicts is what would conflict if none were ever dropped."""
        writes, by_host = self.random.random() < 0.4, stream is None
        if self.random.random() < 0.2:
            self.accesses, self.touched = Accesses(), []  # of another buffer
        sources = self.graph.next(stream, thread) if stream else [self.graph.tail(("host", thread))]
        known = self.clocks.before_next(stream, thread) if stream else self.clocks.of_thread(thread)
        conflicting = [
            node
            for node, wrote, was_host in self.touched
            if (writes or wrote) and not (by_host and was_host) and not self.graph.is_before(node, sources)
        ]
        found = [old.who for old in self.accesses.conflicts(known, writes=writes, by_host=by_host)]
        assert set(found) <= set(conflicting)
        assert bool(found) == bool(conflicting)
        node, epoch = self.both("enqueue", stream, thread) if stream else self.both("access", thread)
        self.accesses.add(Access(node, epoch, writes, by_host), known)
        self.touched.append((node, writes, by_host))
        self.epochs.append((epoch, node))

    def check(self) -> None:
        """Everybody knows what the graph says they know."""
        for epoch, node in self.epochs:
            for thread in self.threads:
                tail = self.graph.tail(("host", thread))
                assert self.clocks.is_known(epoch, thread) == self.graph.is_before(node, [tail])
                for stream in self.graph.kinds:
                    expected = self.graph.is_before(node, self.graph.next(stream, thread))
                    assert self.clocks.happens_before(epoch, stream, thread) == expected


def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget at once whatever has ended."""
    for module in (accesses, ended):
        monkeypatch.setattr(module, "_ROOM", 1 - 1000)


@pytest.mark.parametrize("seed", range(24))
def test_only_what_has_ended_is_forgotten(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    no_room(monkeypatch)
    life = Life(seed)
    life.clocks._ended_lines._room = 0
    for _ in range(120):
        life.step()
        life.check()


def test_clocks_beside_others_know_their_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    # The two are told one after the other that a stream has ended. If one tells two streams apart, both do.
    no_room(monkeypatch)
    strict = Clocks()
    lenient = Clocks(beside=strict)
    strict._ended_lines._room = 0
    epochs = []
    for stream in ("main", "first", "second", "third"):
        for clocks in (strict, lenient):
            clocks.add_stream(stream, context="here", kind=StreamKind.NON_BLOCKING)
    for stream in ("first", "second", "third"):
        epochs.append(strict.enqueue(stream, MAIN))
        assert lenient.enqueue(stream, MAIN) == epochs[-1]
    strict.record("event", "second", MAIN)
    lenient.join("main", lenient.of_stream("second"))
    strict.record("event", "third", OTHER)
    for stream in ("first", "second", "third"):
        strict.remove_stream(stream)
        lenient.remove_stream(stream)
    assert [lenient.happens_before(epoch, "main", MAIN) for epoch in epochs] == [False, True, False]
    strict.wait("main", "event", MAIN)
    assert [strict.happens_before(epoch, "main", MAIN) for epoch in epochs] == [False, False, True]


@pytest.mark.parametrize("order", ["host", "stream", "nobody"])
@pytest.mark.parametrize("kind", [StreamKind.BLOCKING, StreamKind.NON_BLOCKING])
def test_the_clocks_stay_small_while_streams_events_and_threads_come_and_go(order: str, kind: StreamKind) -> None:
    clocks, weights = Clocks(), Accesses[int]()
    clocks.add_stream("main", context="here", kind=StreamKind.NON_BLOCKING)
    sizes = []
    for number in range(3000):
        stream, event, thread = ("stream", number), ("event", number), ("thread", number)
        clocks.add_stream(stream, context="here", kind=kind)
        clocks.add_thread(thread)
        known = clocks.before_next(stream, thread)
        assert weights.conflicts(known, writes=False) == []
        weights.add(Access(number, clocks.enqueue(stream, thread), writes=False), known)
        clocks.record(event, stream, thread)
        if order == "host":
            clocks.synchronize_event(event, MAIN)
        elif order == "stream":
            clocks.wait("main", event, MAIN)
        clocks.access(thread)
        clocks.forget_event(event)
        clocks.remove_stream(stream)
        clocks.end_thread(thread)
        hosts, others = clocks._parts()
        sizes.append(sum(map(len, (*hosts, *others))) + len(clocks._ended_lines._lines) + len(weights._live))
    assert max(sizes) < 2000
    # The race is still found, unless the work was ordered.
    clocks.add_stream("new", context="here", kind=kind)
    for stream, ordered in (("new", order == "host"), ("main", order != "nobody")):
        assert bool(weights.conflicts(clocks.before_next(stream, MAIN), writes=True)) is not ordered
