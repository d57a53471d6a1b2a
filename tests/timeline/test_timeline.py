"""The timeline: on the simulator, and on a simulator whose events have been given times."""

import functools
import gc
import io
import itertools
import json
import sys
import warnings
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interop
from interop import _cuda
from interop._order import watchers
from interop.errors import InteropError, InvalidStreamError, LibraryNotFoundError, NotSupportedError
from interop.timeline.reading import Lane, Reading, Span
from tests.core.test_watch import Notes
from tests.threads import in_thread, in_threads

RELAXED = 2


def nothing(*_):
    pass


@pytest.fixture
def gpu():
    with interop.sim.simulate(devices=2) as gpu:
        yield gpu


class Clock:
    """Gives the events of a simulation the times at which they are recorded, on one clock a device; a GPU then."""

    def __init__(self, gpu):
        self.now = {0: 100.0, 1: 5000.0}
        self.at = {}
        self.waited_for = []
        record, synchronize = gpu.runtime.cudaEventRecord, gpu.runtime.cudaEventSynchronize

        def record_it(event, stream):
            self.at[int(event)] = self.now[gpu.runtime.cudaStreamGetDevice(stream)[1]]
            return record(event, stream)

        def synchronize_it(event):
            self.waited_for.append(int(event))
            return synchronize(event)

        gpu.runtime.cudaEventRecord = record_it
        gpu.runtime.cudaEventSynchronize = synchronize_it
        gpu.runtime.cudaEventElapsedTime = lambda start, end: (
            gpu.runtime.cudaError_t(0),
            self.at[end] - self.at[start],
        )
        gpu.cuda.simulation = None

    def pass_(self, milliseconds):
        self.now = {device: now + milliseconds for device, now in self.now.items()}


@pytest.fixture
def clock(gpu):
    return Clock(gpu)


@pytest.fixture
def streams(gpu):
    return [interop.as_stream(gpu.stream(name)) for name in ("a", "b", "c")]


# -- arrows --------------------------------------------------------------------------------------------------------

NUMBERS = st.integers(0, 2)
KINDS = st.sampled_from(["join", "record", "wait", "work", "foreign join", "foreign record"])


@settings(deadline=None)
@given(st.lists(st.tuples(KINDS, NUMBERS, NUMBERS), max_size=12))
def test_an_arrow_for_every_wait_that_interop_makes_and_no_other(steps):
    """The oracle: which streams' work the calls that reach CUDA order, whatever interop says of itself."""
    with interop.sim.simulate(on_race="record") as gpu:
        streams = [interop.as_stream(gpu.stream(name)) for name in "abc"]
        events = [interop.Event() for _ in range(3)]
        runtime = gpu.runtime
        record, wait = runtime.cudaEventRecord, runtime.cudaStreamWaitEvent
        recorded, ordered = {}, []
        numbers = {stream.cuda_stream: number for number, stream in enumerate(streams)}

        def spy_record(event, stream):
            recorded[event] = numbers[stream]
            return record(event, stream)

        def spy_wait(stream, event, flags):
            if recorded[event] != numbers[stream]:
                ordered.append((recorded[event], numbers[stream]))
            return wait(stream, event, flags)

        runtime.cudaEventRecord, runtime.cudaStreamWaitEvent = spy_record, spy_wait
        foreign = runtime.cudaEventCreateWithFlags(0)[1]
        do = {
            "join": lambda one, other: streams[one].wait_stream(streams[other]),
            "record": lambda one, other: streams[one].record_event(events[other]),
            "wait": lambda one, other: events[other]._recorded and streams[one].wait_event(events[other]),
            "work": lambda one, _: gpu.launch(streams[one], nothing),
            # What a library does by itself.
            "foreign record": lambda one, _: record(foreign, streams[one].cuda_stream),
            "foreign join": lambda one, _: wait(streams[one].cuda_stream, foreign, 0),
        }
        with interop.Timeline() as timeline:
            for what, one, other in steps:
                do[what](one, other)
        assert [(int(a.producer.name, 36) - 10, int(a.consumer.name, 36) - 10) for a in timeline.arrows] == ordered
        assert all(arrow.recorded <= arrow.waited for arrow in timeline.arrows)


def test_the_kind_of_an_arrow_says_how_the_wait_was_made(gpu, streams, monkeypatch):
    a, b, c = streams
    monkeypatch.setattr(_cuda.memory, "pointer_place", lambda *_: (2, 0))
    from tests.arrays.test_arrays import Owner

    with interop.Timeline() as timeline:
        b.wait_stream(a)
        b.wait_event(a.record_event())
        views = [interop.handoff(Owner(), c, producer=a)]
        c.wait_stream(a)
    kinds = [(arrow.kind, arrow.arrays) for arrow in timeline.arrows]
    assert kinds == [("wait", ""), ("event", ""), ("hand-over", "Owner 3 x 4"), ("wait", "")]
    del views
    interop.release()


def test_the_way_back_of_a_borrowed_array_is_an_arrow(gpu, streams, monkeypatch):
    a, b, _ = streams
    monkeypatch.setattr(_cuda.memory, "pointer_place", lambda *_: (2, 0))
    from tests.arrays.test_arrays import Owner

    with interop.Timeline() as timeline:
        with interop.borrow(Owner(), Owner(), consumer=b, producer=a) as views:
            pass
        there, back, *_ = timeline.arrows
    assert (there.kind, there.arrays) == ("hand-over", "Owner 3 x 4, Owner 3 x 4")
    assert (there.producer.name, there.consumer.name) == ("a", "b")
    assert (back.kind, back.producer.name, back.consumer.name) == ("wait", "b", "a")
    del views
    interop.release()


def test_a_wait_for_an_event_recorded_before_or_elsewhere_is_no_arrow(gpu, streams):
    a, b, c = streams
    before = a.record_event()
    foreign = gpu.runtime.cudaEventCreateWithFlags(0)[1]
    gpu.runtime.cudaEventRecord(foreign, a.cuda_stream)
    with interop.Timeline() as timeline:
        b.wait_event(before)
        b.wait_event(foreign)
    c.wait_stream(a)
    assert timeline.arrows == ()


def test_a_new_event_at_the_address_of_an_old_one_is_not_mistaken_for_it(gpu, streams):
    a, b, c = streams
    with interop.Timeline() as timeline:
        a.record_event(interop.Event(blocking=True))  # one that is destroyed, and does not return to a pool
        gc.collect()
        foreign = gpu.runtime.cudaEventCreateWithFlags(0)[1]
        gpu.runtime.cudaEventRecord(foreign, c.cuda_stream)
        b.wait_event(foreign)
    assert timeline.arrows == ()


def test_a_wait_of_a_stream_for_its_own_event_is_no_arrow(gpu, streams):
    with interop.Timeline() as timeline:
        streams[0].wait_event(streams[0].record_event())
    assert timeline.arrows == ()


def test_an_event_that_is_recorded_again_stands_for_the_new_work(gpu, streams):
    a, b, c = streams
    event = interop.Event()
    with interop.Timeline() as timeline:
        a.record_event(event)
        b.record_event(event)
        c.wait_event(event)
    assert [arrow.producer.name for arrow in timeline.arrows] == ["b"]


def test_no_watcher_is_told_of_the_records_of_a_timeline(gpu, streams):
    a, b, _ = streams
    notes = Notes()
    with interop.Timeline() as timeline, interop.Timeline() as inner:
        watchers.watch(notes)
        with timeline.span("work", a):
            pass
        b.wait_stream(a)
        watchers.unwatch(notes)
    assert notes.told == [("joined", b, a)]
    assert len(timeline.arrows) == len(inner.arrows) == 1
    assert (len(timeline.spans), len(inner.spans)) == (1, 0)
    assert not watchers.active


def test_waits_of_all_threads_become_arrows(gpu, streams):
    a, b, c = streams
    with interop.Timeline() as timeline:

        def work(producer, consumer):
            for _ in range(20):
                with timeline.span("work", producer):
                    consumer.wait_stream(producer)

        in_threads(*(functools.partial(work, *pair) for pair in ((a, b), (b, c), (c, a))))
    assert len(timeline.spans) == len(timeline.arrows) == 60
    assert {(arrow.producer.name, arrow.consumer.name) for arrow in timeline.arrows} == {
        ("a", "b"),
        ("b", "c"),
        ("c", "a"),
    }
    assert sorted(lane.number for lane in {span.lane for span in timeline.spans}) == [0, 1, 2]


# -- spans ---------------------------------------------------------------------------------------------------------


def test_positions_on_the_simulator_are_steps(gpu, streams):
    a, b, _ = streams
    with interop.Timeline() as timeline:
        with timeline.span("first", a):
            gpu.launch(a, nothing)
            gpu.launch(a, nothing)
        with timeline.span("beside", b):
            gpu.launch(b, nothing)
        b.wait_stream(a)
        with timeline.span("after", b):
            gpu.launch(b, nothing)
        a.synchronize()
        with timeline.span("the host waited", streams[2]):
            gpu.launch(streams[2], nothing)
    assert [(span.name, span.start, span.end) for span in timeline.spans] == [
        ("first", 0, 2),
        ("beside", 0, 1),
        ("after", 2, 3),
        ("the host waited", 2, 3),
    ]
    assert timeline.table().unit == "steps"
    assert "SIMULATED" in repr(timeline)
    assert timeline.table().notes[0].startswith("SIMULATED: the order, not the time")


def test_reading_a_simulation_waits_for_nothing_and_hides_no_race(gpu, streams):
    a, b, _ = streams
    x = gpu.array([0])
    with interop.Timeline() as timeline, timeline.span("work", a):
        shut = gpu.gate(a)
        gpu.launch(a, nothing, writes=[x])
    assert timeline.spans[0].end == 1
    with pytest.raises(interop.errors.RaceError):
        gpu.launch(b, nothing, writes=[x])
    shut.open()


def test_positions_on_a_gpu_are_milliseconds(clock, streams):
    a, b, _ = streams
    with interop.Timeline() as timeline:
        with timeline.span("outer", a):
            clock.pass_(1.5)
            with timeline.span("inner", a):
                clock.pass_(2)
        clock.pass_(0.25)
        b.wait_stream(a)
        clock.pass_(1)
        with timeline.span("later", b):
            clock.pass_(3)
    assert [(s.name, s.start, s.end) for s in timeline.spans] == [
        ("inner", 1.5, 3.5),
        ("outer", 0, 3.5),
        ("later", 4.75, 7.75),
    ]
    assert [(a.recorded, a.waited) for a in timeline.arrows] == [(3.75, 3.75)]
    rows = timeline.table()
    assert rows.unit == "ms"
    assert rows.notes == []
    assert [(row.what, row.name, row.start, row.length) for row in rows] == [
        ("span", "outer", 0, 3.5),
        ("span", "inner", 1.5, 2),
        ("wait", "", 3.75, 0),
        ("span", "later", 4.75, 3),
    ]


def test_the_first_position_is_zero_even_if_its_stream_reaches_it_late(clock, streams):
    a, b, _ = streams
    with interop.Timeline() as timeline:
        with timeline.span("late", a):
            pass
        with timeline.span("early", b):
            pass
    late, early = timeline._recorder._spans
    clock.at[late[2]], clock.at[late[3]] = 50.0, 52.0
    clock.at[early[2]], clock.at[early[3]] = 40.0, 41.0
    assert [(s.start, s.end) for s in timeline.spans] == [(10, 12), (0, 1)]


def test_the_clocks_of_two_devices_are_compared_with_the_hosts(clock, gpu, monkeypatch):
    a, b = (interop.as_stream(gpu.stream(device=device)) for device in (0, 1))
    # The host's clock: every look at it takes 4 microseconds, in which the devices' clocks go on too.
    host = [77.0]

    def look():
        host[0] += 4e-6
        clock.pass_(4e-3)
        return host[0]

    monkeypatch.setattr("interop.timeline.ticks.time.perf_counter", look)
    with interop.Timeline() as first, first.span("leaves spare events", a), first.span("there too", b):
        pass
    assert first.table()
    with interop.Timeline() as timeline:
        with timeline.span("here", a):
            clock.pass_(3)
        b.wait_stream(a)
        with timeline.span("there", b):
            clock.pass_(2)
    reading = timeline._read()
    here, there = reading.spans
    # Recording takes no time here, so the truth is known: one begins where the other ends.
    assert abs(there.start - here.end) <= reading.error
    assert 0 < reading.error < 0.01
    assert here.end - here.start == pytest.approx(3)
    assert there.end - there.start == pytest.approx(2)
    assert {span.lane.device for span in reading.spans} == {0, 1}
    assert "compared to within 0.00" in reading.notes[0]
    # Nothing of the comparison stays.
    assert len(gpu._machine.streams) == 2


def test_the_host_waits_only_when_the_timeline_is_read(clock, gpu, streams):
    a, b, _ = streams
    asked = []
    for name in ("cudaStreamSynchronize", "cudaStreamQuery", "cudaEventQuery", "cudaDeviceSynchronize"):
        setattr(gpu.runtime, name, lambda *_, name=name: asked.append(name))
    with interop.Timeline() as timeline:
        with timeline.span("work", a):
            b.wait_stream(a)
        repr(timeline)
    assert "2 spans and arrows so far, not read yet" in repr(timeline)
    assert clock.waited_for == []
    timeline.table()
    # Once for each record that is read, and not again.
    assert len(clock.waited_for) == len(set(clock.waited_for)) == 4
    timeline.figure()
    assert len(clock.waited_for) == 4
    assert asked == []


@pytest.fixture
def behind(clock, gpu):
    """A GPU that is behind the host: it knows no times of what is later on its stream than what was waited for."""
    runtime, order = gpu.runtime, {}
    record, elapsed = runtime.cudaEventRecord, runtime.cudaEventElapsedTime

    def record_it(event, stream):
        result = record(event, stream)
        order[int(event)] = int(stream), len(order)
        return result

    def elapsed_it(*events):
        for event in events:
            stream, place = order[int(event)]
            if place > max((order[e][1] for e in clock.waited_for if order[e][0] == stream), default=-1):
                return runtime.cudaError_t(600), 0.0
        return elapsed(*events)

    runtime.cudaEventRecord, runtime.cudaEventElapsedTime = record_it, elapsed_it
    return runtime


def test_spans_of_two_threads_on_one_stream(behind, streams):
    record = behind.cudaEventRecord

    def work():
        with timeline.span("other", streams[0]):
            pass

    def overtaken(event, stream):
        result = record(event, stream)
        behind.cudaEventRecord = record
        in_thread(work)
        return result

    with interop.Timeline() as timeline, timeline.span("one", streams[0]):
        behind.cudaEventRecord = overtaken
    assert [span.name for span in timeline.spans] == ["other", "one"]


def test_a_span_can_be_left_while_the_timeline_is_read(behind, streams):
    class Spans(list):
        def __iter__(self):
            if len(self) == 1:
                with timeline.span("other", streams[0]):
                    pass
            return super().__iter__()

    with interop.Timeline() as timeline:
        timeline._recorder._spans = Spans()
        with timeline.span("one", streams[0]):
            pass
        assert [span.name for span in timeline.spans] == ["one", "other"]


def test_a_timeline_reuses_the_events_of_earlier_ones(clock, gpu, streams):
    created = []
    create = gpu.runtime.cudaEventCreateWithFlags
    gpu.runtime.cudaEventCreateWithFlags = lambda flags: created.append(flags) or create(flags)

    def record(read):
        with interop.Timeline() as timeline:
            for _ in range(100):
                with timeline.span("work", streams[0]):
                    pass
        if read:
            assert len(timeline.spans) == 100
        return timeline

    kept = record(read=True)
    made = len(created)
    assert 200 <= made < 300
    assert set(created) == {0}  # with timing
    record(read=False)
    record(read=True)
    assert len(created) == made
    assert len(kept.spans) == 100


def test_unused_events_above_a_limit_are_destroyed(clock, gpu, streams, monkeypatch):
    monkeypatch.setattr("interop.timeline.ticks._SPARE", 64)
    with interop.Timeline() as timeline:
        for _ in range(100):
            with timeline.span("work", streams[0]):
                pass
    timeline.table()
    assert len(gpu._machine.events) <= 64 + 64


def test_a_span_is_recorded_although_its_block_raised(gpu, streams):
    with interop.Timeline() as timeline, pytest.raises(ZeroDivisionError), timeline.span("fails", streams[0]):
        raise ZeroDivisionError
    assert [span.name for span in timeline.spans] == ["fails"]


def test_a_span_that_is_open_cannot_be_entered_again(gpu, streams):
    with interop.Timeline() as timeline:
        span = timeline.span("work", streams[0])
        with span:
            gpu.launch(streams[0], nothing)
            with pytest.raises(InteropError, match="span 'work' is open already"):
                span.__enter__()
            gpu.launch(streams[0], nothing)
        with span:
            gpu.launch(streams[0], nothing)
    assert [(s.name, s.start, s.end) for s in timeline.spans] == [("work", 0, 2), ("work", 2, 3)]


def test_a_span_on_the_stream_in_use(gpu, streams):
    with interop.Timeline() as timeline, interop.use(streams[1]), timeline.span("work"):
        pass
    assert timeline.spans[0].lane.name == "b"
    with interop.Timeline() as timeline, pytest.raises(InvalidStreamError, match="no stream was given"):
        timeline.span("work").__enter__()


def test_a_timeline_can_be_read_while_it_is_open(gpu, streams):
    a, b, _ = streams
    with interop.Timeline() as timeline:
        with timeline.span("outer", a):
            with timeline.span("one", a):
                gpu.launch(a, nothing)
            assert [span.name for span in timeline.spans] == ["one"]
            assert repr(timeline) == "<SIMULATED interop.Timeline: 1 span or arrow so far, recording>"
            b.wait_stream(a)
        assert [span.name for span in timeline.spans] == ["one", "outer"]
    assert len(timeline.arrows) == 1


def test_misuse_of_a_timeline_is_an_error(gpu, streams):
    timeline = interop.Timeline()
    assert timeline.spans == timeline.arrows == ()
    assert "not entered yet" in repr(timeline)
    with pytest.raises(InteropError, match="span 'early' is outside of its timeline"):
        timeline.span("early", streams[0]).__enter__()
    with timeline:
        late = timeline.span("late", streams[0])
        left = timeline.span("left open", streams[0])
        left.__enter__()
        with pytest.raises(InvalidStreamError):
            timeline.span("work", "no stream").__enter__()
    left.__exit__(None, None, None)
    with pytest.raises(InteropError, match="span 'late' is outside of its timeline"):
        late.__enter__()
    with pytest.raises(InteropError, match="entered before"), timeline:
        pass
    assert timeline.spans == ()


def test_a_timeline_belongs_to_one_simulation(gpu):
    with interop.Timeline() as timeline, interop.sim.simulate() as other:
        inner = [interop.as_stream(other.stream()) for _ in range(2)]
        inner[0].wait_stream(inner[1])
        inner[0].wait_event(inner[1].record_event())
        with pytest.raises(NotSupportedError, match="is not of the GPU or simulation"):
            timeline.span("work", inner[0]).__enter__()
    assert timeline.arrows == ()


def test_a_timeline_can_be_read_after_the_simulation():
    with interop.sim.simulate() as gpu, interop.Timeline() as timeline, timeline.span("work", gpu.stream("one")):
        pass
    assert str(timeline.spans[0].lane) == "SIMULATED one, device 0"
    assert timeline._repr_mimebundle_()["image/png"]


def test_lanes_are_named_by_library_and_device(clock, gpu, acme, registry):
    class Wrapped:
        def __init__(self, stream):
            self.stream = stream

        def __cuda_stream__(self):
            return self.stream.__cuda_stream__()

    own = interop.new_stream(1)
    native = Wrapped(gpu.stream())
    bare = gpu.stream()
    with interop.Timeline() as timeline:
        for stream in (
            own,
            native,
            bare.__cuda_stream__()[1],
            interop.ExternalStream(1, 0),
            interop.ExternalStream(2, 1),
        ):
            with timeline.span("work", stream):
                pass
    lanes = [span.lane for span in timeline.spans]
    assert [(lane.number, lane.library, lane.device) for lane in lanes] == [
        (0, "interop", 1),
        (1, __name__.partition(".")[0], 0),
        (2, "", 0),
        (3, "", 0),
        (4, "", 1),
    ]
    assert [lane.name for lane in lanes[2:]] == [
        f"stream {bare.__cuda_stream__()[1]:#x}",
        "legacy default",
        "per-thread default",
    ]


# -- captures ------------------------------------------------------------------------------------------------------


def test_spans_and_waits_of_captures_are_left_out_and_counted(gpu, streams):
    a, b, c = streams
    with interop.Timeline() as timeline:
        with timeline.span("around", a):
            gpu.runtime.cudaStreamBeginCapture(a.cuda_stream, RELAXED)
            with timeline.span("captured", a):
                gpu.launch(a, nothing)
            b.wait_stream(a)
            event = b.record_event()
            a.wait_event(event)
            with timeline.span("meanwhile", c):
                pass
            code, graph = gpu.runtime.cudaStreamEndCapture(a.cuda_stream)
            assert not code
            assert graph.nodes == 1
        c.wait_stream(a)
    assert [span.name for span in timeline.spans] == ["meanwhile", "around"]
    assert len(timeline.arrows) == 1
    assert "3 spans and waits are not shown" in timeline.table().notes[1]


def test_a_capture_uses_no_event_of_the_timeline(gpu, streams):
    from interop.timeline import ticks

    a = streams[0]
    with interop.Timeline() as timeline:
        with timeline.span("before", a):
            pass
        spare = ticks._spare[gpu.cuda][a._context_id]
        before = sorted(spare)
        gpu.runtime.cudaStreamBeginCapture(a.cuda_stream, RELAXED)
        with timeline.span("captured", a):
            pass
        assert sorted(spare) == before
        assert not gpu.runtime.cudaStreamEndCapture(a.cuda_stream)[0]
    assert len(timeline.spans) == 1


def test_a_capture_that_the_legacy_stream_would_break_goes_on(gpu):
    blocking, legacy = interop.as_stream(gpu.stream(non_blocking=False)), interop.ExternalStream(1, 0)
    with interop.Timeline() as timeline:
        gpu.runtime.cudaStreamBeginCapture(blocking.cuda_stream, RELAXED)
        with timeline.span("work", legacy):
            pass
        assert not gpu.runtime.cudaStreamEndCapture(blocking.cuda_stream)[0]
        with timeline.span("work", legacy):
            pass
    assert len(timeline.spans) == 1
    assert "1 span or wait is not shown" in timeline.table().notes[1]


def test_the_arrays_of_a_captured_hand_over_are_not_added_to_an_earlier_wait(gpu, streams, monkeypatch):
    a, b, _ = streams
    monkeypatch.setattr(_cuda.memory, "pointer_place", lambda *_: (2, 0))
    from tests.arrays.test_arrays import Owner

    with interop.Timeline() as timeline:
        b.wait_stream(a)
        gpu.runtime.cudaStreamBeginCapture(a.cuda_stream, RELAXED)
        view = interop.handoff(Owner(), b, producer=a)
        a.wait_stream(b)
        assert not gpu.runtime.cudaStreamEndCapture(a.cuda_stream)[0]
    assert [arrow.kind for arrow in timeline.arrows] == ["wait"]
    del view
    interop.release()


# -- what it draws -------------------------------------------------------------------------------------------------


@pytest.fixture
def timeline(clock, streams):
    """Two streams that overlap, a third that idles, every kind of arrow but one."""
    a, b, c = streams
    with interop.Timeline() as timeline:
        for _ in range(2):
            with timeline.span("upload [1]", a):
                clock.pass_(1)
            b.wait_stream(a)
            with timeline.span("blur", b):
                clock.pass_(0.5)
                with timeline.span("inner", b):
                    clock.pass_(0.5)
            c.wait_event(b.record_event())
            clock.pass_(0.25)
        with timeline.span("blur", c):
            clock.pass_(1)
    return timeline


def test_the_table_shows_itself(timeline):
    rows = timeline.table()
    assert isinstance(rows, list)
    assert rows[0]._fields == ("what", "name", "stream", "start", "end", "length")
    text = str(rows)
    assert "upload [1]" in text
    assert "[ms]" in text
    assert "→" in text
    assert "<td" in (shown := rows._repr_html_())
    assert shown.count("text-align:right") == 3 * (1 + len(rows))
    assert "upload [1]" in shown


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_table_is_as_wide_as_the_terminal_and_cuts_nothing(gpu, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    producer, consumer = interop.new_stream(name="uploads"), interop.new_stream(name="kernels")
    with interop.Timeline() as timeline, timeline.span("work", producer):
        consumer.wait_stream(producer)
    lines = str(timeline.table()).splitlines()
    assert max(map(len, lines)) <= width
    if width == 200:
        assert any("→" in line and "kernels, device 0" in line for line in lines)
    column = slice(lines[0].index("stream"), lines[0].index("start"))
    cells = "".join(line[column].strip() for line in lines)
    assert "uploads" in cells
    assert "kernels" in cells


def test_plural(gpu):
    with interop.Timeline() as timeline:
        with timeline.span("work", interop.new_stream()):
            pass
        assert "1 span or arrow so far" in repr(timeline)
    timeline.table()
    assert "1 span and 0 arrows on 1 stream>" in repr(timeline)


def test_the_picture(timeline):
    figure = timeline.figure()
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [f"interop\n{s.lane.name}, device 0" for s in (timeline.spans[0], timeline.spans[1])] + [
        f"interop\n{timeline.spans[-1].lane.name}, device 0"
    ]
    assert axes.get_xlabel() == "milliseconds"
    boxes = [patch for patch in axes.patches if type(patch).__name__ == "Rectangle" and patch.get_zorder() >= 2]
    drawn = sorted((box.get_x(), box.get_x() + box.get_width()) for box in boxes)
    assert drawn == sorted((span.start, span.end) for span in timeline.spans)
    arrows = [patch for patch in axes.patches if type(patch).__name__ == "FancyArrowPatch"]
    assert len(arrows) == len(timeline.arrows) == 4
    for patch, arrow in zip(arrows, timeline.arrows, strict=True):
        (x0, y0), (x1, y1) = patch._posA_posB
        assert (x0, x1) == (arrow.recorded, arrow.waited)
        assert round(y0) == arrow.producer.number
        assert round(y1) == arrow.consumer.number
    gaps = [tuple(gap[:, 0]) for lines in axes.collections for gap in lines.get_segments()]
    assert gaps == [(1, 2.25), (2, 3.25)]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["upload [1]", "blur", "inner", "waits for", "waits for an event"]


def test_no_two_names_look_alike_even_in_greyscale(clock, streams):
    names = [f"kernel {number}" for number in range(30)]
    with interop.Timeline() as timeline:
        for name in names:
            with timeline.span(name, streams[0]):
                clock.pass_(1)
    boxes = [patch for patch in timeline.figure().axes[0].patches if patch.get_zorder() == 2]
    looks = [(box.get_facecolor(), box.get_hatch()) for box in boxes]
    assert len(set(looks)) == len(names)
    grey = [0.2126 * r + 0.7152 * g + 0.0722 * b for (r, g, b, _), _ in looks]
    for one, other, this, that in zip(grey, grey[1:], looks, looks[1:], strict=False):
        assert abs(one - other) > 0.08 or this[1] != that[1]


def test_names_without_a_look_of_their_own_are_counted(clock, streams):
    with interop.Timeline() as timeline:
        for number in range(1000):
            with timeline.span(f"kernel {number}", streams[0]):
                clock.pass_(1)
    figure = timeline.figure()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [*(f"kernel {number}" for number in range(40)), "and 960 more"]
    boxes = [patch for patch in figure.axes[0].patches if patch.get_zorder() == 2]
    looks = [(box.get_facecolor(), box.get_hatch()) for box in boxes]
    assert len(set(looks)) == 41
    assert len(set(looks[40:])) == 1
    assert figure.get_figheight() < 4


@pytest.mark.parametrize("spans", [[(0, 2), (1, 3)], [(0, 2), (1, 3), (2, 4)], [(0, 2), (1, 3), (1, 4), (1.5, 1.75)]])
def test_spans_that_partly_overlap_are_drawn_beside_each_other(spans):
    lane = Lane(0, "interop", "a", 0)
    reading = Reading("ms", (lane,), tuple(Span(str(i), lane, *span) for i, span in enumerate(spans)), (), 0, 0.0)
    from matplotlib.transforms import Bbox

    from interop.timeline.picture import draw

    boxes = [patch for patch in draw(reading).axes[0].patches if patch.get_zorder() >= 2]
    assert sorted((box.get_x(), box.get_x() + box.get_width()) for box in boxes) == sorted(spans)
    for one, other in itertools.combinations(boxes, 2):
        shared = Bbox.intersection(one.get_bbox(), other.get_bbox())
        if shared is not None and shared.width > 1e-9 and shared.height > 1e-9:
            outer, inner = sorted((one, other), key=lambda box: box.get_zorder())
            assert outer.get_zorder() < inner.get_zorder()
            assert outer.get_height() > inner.get_height()
            assert shared.width == inner.get_width()


STRANGE = [r"\[/red]", r"a\[red]b", "a[b]", ":warning:", r"$\foo$", "cost $5 to $6", "_private", ""]


def test_names_are_shown_as_they_are(clock, streams, tmp_path):
    with interop.Timeline() as timeline:
        for name in STRANGE:
            with timeline.span(name, streams[0]):
                clock.pass_(1)
    head, _, *lines = str(timeline.table()).splitlines()
    column = slice(head.index("name"), head.index("stream"))
    assert [line[column].strip() for line in lines] == STRANGE
    figure = timeline.figure()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == STRANGE
    texts = [*figure.legends[0].get_texts(), *figure.axes[0].texts, *figure.axes[0].get_yticklabels()]
    assert {text.get_parse_math() for text in texts} == {False}
    timeline.save(tmp_path / "x.png")


FINE = [
    "a \N{SNOWMAN}",
    "a\N{IDEOGRAPHIC SPACE}b",
    "a\N{NO-BREAK SPACE}b",
    "\U0001f469\N{ZERO WIDTH JOINER}\U0001f4bb",
    "two\nlines",
]


def test_characters_that_files_cannot_contain_are_replaced_in_names(gpu, streams, tmp_path):
    with interop.Timeline() as timeline:
        for name in ("half \ud800", "\x1b[31m\x00", *FINE):
            with timeline.span(name, streams[0]):
                pass
    names = [span.name for span in timeline.spans]
    assert names == ["half \ufffd", "\ufffd[31m\ufffd", *FINE]
    assert "\x1b" not in str(timeline.table())
    timeline.save(tmp_path / "x.json")
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # matplotlib's font has no such letters
        timeline.save(tmp_path / "x.svg")
    ET.parse(tmp_path / "x.svg")


def test_long_names_are_shortened(gpu):
    stage, stream = "a stage of work with a name that goes on for ever: number {}", gpu.stream("stream " * 20 + "1")
    with interop.Timeline() as timeline:
        for number in range(2):
            with timeline.span(stage.format(number), stream):
                gpu.launch(stream, nothing)
        with timeline.span("two\nlines", stream):
            gpu.launch(stream, nothing)
    figure = timeline.figure()
    figure.draw_without_rendering()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["a stage of work with a …er: number 0", "a stage of work with a …er: number 1", "two lines"]
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["SIMULATED\nstream stream s…stream 1, device 0"]
    for text in (axes.xaxis.label, *axes.get_yticklabels(), *figure.legends[0].get_texts()):
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_a_picture_of_nothing(gpu):
    with interop.Timeline() as timeline:
        pass
    assert "nothing was recorded" in [text.get_text() for text in timeline.figure().axes[0].texts]
    assert timeline.table() == []


def test_a_simulated_picture_says_so(gpu, streams):
    with interop.Timeline() as timeline, timeline.span("work", streams[0]):
        gpu.launch(streams[0], nothing)
    axes = timeline.figure().axes[0]
    assert axes.get_title(loc="right") == "SIMULATED"
    assert axes.get_xlabel() == "steps of the simulator: the order, not the time"


def test_files(timeline, tmp_path):
    for name, start in {"x.png": b"\x89PNG", "x.svg": b"<?xml", "x.pdf": b"%PDF"}.items():
        timeline.save(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    assert timeline._repr_mimebundle_()["image/png"].startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="nonsense"):
        timeline.save(str(tmp_path / "x.nonsense"))


def test_pyplot_does_not_know_of_the_figure(timeline):
    sys.modules.pop("matplotlib.pyplot", None)
    timeline._repr_mimebundle_()["image/png"]
    assert "matplotlib.pyplot" not in sys.modules


@pytest.fixture
def no_matplotlib(monkeypatch):
    for name in {"matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))}:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "interop.timeline.picture", raising=False)


def test_a_missing_library_is_named(timeline, no_matplotlib):
    with pytest.raises(LibraryNotFoundError, match="needs matplotlib: pip install matplotlib"):
        timeline.figure()
    assert len(timeline.table()) == 11


def test_the_trace(timeline, tmp_path):
    timeline.save(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event["ph"] == "M"]
    assert names == ["process_name", *["thread_name", "thread_sort_index"] * 3]
    spans = [event for event in events if event["ph"] == "X" and event["cat"] == "span"]
    # Stream by stream, and from the outside in.
    assert [(e["name"], e["ts"], e["dur"]) for e in spans] == [
        (s.name, pytest.approx(1000 * s.start), pytest.approx(1000 * (s.end - s.start)))
        for s in sorted(timeline.spans, key=lambda s: (s.lane, s.start))
    ]
    slices = {(e["pid"], e["tid"], e["ts"]) for e in events if e["ph"] == "X"}
    starts, ends = ({e["id"]: e for e in events if e["ph"] == phase} for phase in "sf")
    assert starts.keys() == ends.keys() == {1, 2, 3, 4}
    for number, arrow in enumerate(timeline.arrows, 1):
        start, end = starts[number], ends[number]
        assert (start["tid"], end["tid"]) == (arrow.producer.number + 1, arrow.consumer.number + 1)
        # A flow binds to a slice that is there at its time.
        assert {(e["pid"], e["tid"], e["ts"]) for e in (start, end)} <= slices


def test_a_trace_in_which_an_arrow_was_recorded_backwards(clock, streams):
    with interop.Timeline() as timeline:
        streams[1].wait_stream(streams[0])
    wait = timeline._recorder._waits[0]
    clock.at[wait.recorded] += 0.002
    assert timeline.arrows[0].recorded > timeline.arrows[0].waited
    from interop.timeline.trace import trace_text

    flows = [event for event in json.loads(trace_text(timeline._read()))["traceEvents"] if event["ph"] in "sf"]
    assert flows[0]["ts"] <= flows[1]["ts"]


def test_the_trace_of_a_simulation_says_so(gpu, streams, tmp_path):
    with interop.Timeline() as timeline, timeline.span("work", streams[0]):
        gpu.launch(streams[0], nothing)
    timeline.save(tmp_path / "trace.json")
    text = (tmp_path / "trace.json").read_text()
    assert "device 0 (SIMULATED: a step of 1 ms is a kernel)" in text
    assert "SIMULATED: the order, not the time" in text


def test_the_timeline_is_loaded_on_demand(python):
    code = (
        "import json, sys, interop; before = 'interop.timeline' in sys.modules; interop.Timeline;"
        "print(json.dumps([before, 'interop.timeline' in sys.modules, 'matplotlib' in sys.modules]))"
    )
    assert python(code) == [False, True, False]


def test_without_a_gpu_or_a_simulation_the_stream_says_so(address):
    if _cuda.active().simulation is None:
        with interop.Timeline() as timeline:
            assert timeline.spans == ()


def test_the_table_fits_an_ascii_terminal(timeline, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert "->" in str(timeline.table())
    assert str(timeline.table()).isascii()


def test_an_empty_timeline_has_no_picture_and_no_table(gpu):
    with interop.Timeline() as timeline:
        pass
    assert set(timeline._repr_mimebundle_()) == {"text/plain"}
    assert str(timeline.table()).startswith("nothing was recorded")
