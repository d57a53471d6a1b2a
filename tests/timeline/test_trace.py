"""The files that a timeline saves for viewers: by the rules of the Trace Event Format, and as its viewers read them.

https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

import json
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interop
from interop.timeline.reading import Lane, Reading, Span
from interop.timeline.trace import _microseconds, trace_text
from tests.timeline.test_timeline import Clock, nothing

# The fields of each phase: those that must be there, and those that may.
COMMON = {"name": str, "ph": str, "pid": int, "tid": int}
FIELDS = {
    "M": ({**COMMON, "args": dict}, {}),
    "X": ({**COMMON, "cat": str, "ts": float, "dur": float}, {"args": dict}),
    "s": ({**COMMON, "cat": str, "ts": float, "id": int}, {}),
    "f": ({**COMMON, "cat": str, "ts": float, "id": int, "bp": str}, {}),
}
NAMES = {"process_name": ("name", str), "thread_name": ("name", str), "thread_sort_index": ("sort_index", int)}


def refused(constant):
    message = f"JSON has no {constant}"
    raise ValueError(message)


def events_of(text):
    """The events of a trace, after a look at each by itself."""
    trace = json.loads(text, parse_constant=refused)
    assert trace.keys() == {"traceEvents", "displayTimeUnit", "otherData"}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    for event in trace["traceEvents"]:
        required, optional = FIELDS[event["ph"]]
        assert required.keys() <= event.keys() <= required.keys() | optional.keys()
        assert all(type(value) is {**required, **optional}[field] for field, value in event.items())
        assert min(event.get("ts", 0), event.get("dur", 0), event["pid"], event["tid"]) >= 0
    return trace["traceEvents"]


def thread_of(event):
    return event["pid"], event["tid"]


def slices_of(events):
    """The slices of each thread, in the order of the file."""
    slices = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            slices[thread_of(event)].append(event)
    return slices


def check_names(events):
    """Every process and thread has its name once, and before it is used."""
    named, used = defaultdict(set), set()
    for event in events:
        what = event["name"]
        if event["ph"] == "M":
            field, kind = NAMES[what]
            assert event["args"].keys() == {field}
            assert type(event["args"][field]) is kind
            owner = event["pid"] if what == "process_name" else thread_of(event)
            assert owner not in named[what] | used
            named[what].add(owner)
        else:
            used |= {event["pid"], thread_of(event)}
            assert event["pid"] in named["process_name"]
            assert thread_of(event) in named["thread_name"] & named["thread_sort_index"]


def check_nesting(slices):
    """Two slices (start and end) of a thread are nested or disjoint; of those that start together, the outer is first.

    Perfetto drops one that is neither: src/trace_processor/importers/common/slice_tracker.cc.
    """
    around = []
    for start, end in sorted(slices, key=lambda ends: ends[0]):
        while around and around[-1] <= start:
            around.pop()
        assert not around or end <= around[-1], "partly overlapping"
        around.append(end)


def check_flows(events):
    """Flows are pairs by category, name and id; each end is in a slice of its thread, from which the arrow is drawn."""
    slices, flows = slices_of(events), defaultdict(list)
    for event in events:
        if event["ph"] in "sf":
            flows[event["cat"], event["name"], event["id"]].append(event)
            around = (s for s in slices[thread_of(event)] if s["ts"] <= event["ts"] <= s["ts"] + s["dur"])
            assert any(around)
    for start, end in flows.values():
        assert (start["ph"], end["ph"], end["bp"]) == ("s", "f", "e")
        assert start["ts"] <= end["ts"]
    return len(flows)


def check(text):
    """All that the format asks for."""
    events = events_of(text)
    check_names(events)
    for slices in slices_of(events).values():
        # To a picosecond: times are decimal fractions of microseconds.
        ends = [(round(s["ts"], 6), round(s["ts"] + s["dur"], 6)) for s in slices]
        check_nesting(sorted(ends, key=lambda ends: -ends[1]))
    assert check_flows(events) == sum(event["ph"] == "s" for event in events)
    return events


# -- any program ---------------------------------------------------------------------------------------------------

NUMBERS = st.integers(0, 2)
work = st.tuples(st.just("work"), NUMBERS, st.floats(0, 1e5))
waits = st.tuples(st.sampled_from(["wait", "event"]), NUMBERS, NUMBERS)
programs = st.recursive(
    st.lists(work | waits, max_size=4),
    lambda inner: st.lists(work | waits | st.tuples(st.just("span"), NUMBERS, inner), max_size=4),
)


@pytest.mark.parametrize("timed", [False, True], ids=["steps", "times"])
@settings(deadline=None)
@given(program=programs)
def test_any_timeline_makes_a_valid_trace(program, timed):
    with interop.sim.simulate(devices=2, on_race="record") as gpu:
        streams = [interop.new_stream(device) for device in (0, 0, 1)]
        clock = Clock(gpu) if timed else None
        count = [0, 0]

        def run(steps):
            for what, number, more in steps:
                stream = streams[number]
                if what == "span":
                    count[0] += 1
                    with timeline.span(f'"{number}" \\ é', stream):
                        run(more)
                elif what == "work" and timed:
                    clock.pass_(more)
                elif what == "work":
                    gpu.launch(stream, nothing)
                elif number != more:
                    count[1] += 1
                    stream.wait_stream(streams[more]) if what == "wait" else stream.wait_event(
                        streams[more].record_event()
                    )

        with interop.Timeline() as timeline:
            run(program)
        text = trace_text(timeline._read())
        events = check(text)
        check_as_read(text)
        assert sum(event.get("cat") == "span" for event in events) == count[0]
        assert sum(event["ph"] == "s" for event in events) == count[1]


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda events: events[0].pop("pid"), "a field is missing"),
        (lambda events: events[-2].update(ts=float("nan")), "no JSON"),
        (lambda events: slice_of(events, "outer").update(dur=-1.0), "a length below nothing"),
        (lambda events: slice_of(events, "outer").update(dur=1500.0), "partly overlapping"),
        (lambda events: events[-1].update(ts=9e9), "an arrow to nowhere"),
        (lambda events: events[-1].update(id=7), "half an arrow"),
        (lambda events: events[-1].pop("bp"), "bound to what comes next"),
        (lambda events: events[1].update(name="process_name"), "named twice"),
        (lambda events: events.pop(0), "no name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_check_finds(spoil, what, tmp_path):
    with interop.sim.simulate() as gpu, interop.Timeline() as timeline:
        a, b = interop.new_stream(), interop.new_stream()
        with timeline.span("outer", a):
            gpu.launch(a, nothing)
            with timeline.span("inner", a):
                gpu.launch(a, nothing)
        b.wait_stream(a)
    timeline.save(tmp_path / "trace.json")
    text = (tmp_path / "trace.json").read_text(encoding="utf-8")
    check(text)
    trace = json.loads(text)
    spoil(trace["traceEvents"])
    with pytest.raises((AssertionError, ValueError, KeyError)):
        check(json.dumps(trace))


def slice_of(events, name):
    return next(event for event in events if event["name"] == name)


# -- as viewers read it --------------------------------------------------------------------------------------------


def check_as_read(text):
    """As :func:`check`, in the order of the file, which decides in chrome://tracing; in nanoseconds, as in Perfetto.

    Which cuts off the rest: src/trace_processor/importers/json/json_utils.cc.
    """
    for slices in slices_of(events_of(text)).values():
        starts = [int(s["ts"] * 1000.0) for s in slices]
        check_nesting([(start, start + int(s["dur"] * 1000.0)) for start, s in zip(starts, slices, strict=True)])


def test_a_span_in_a_span_as_read():
    with interop.sim.simulate() as gpu, interop.Timeline() as timeline:
        stream = interop.new_stream()
        with timeline.span("outer", stream):
            gpu.launch(stream, nothing)
            with timeline.span("inner", stream):
                gpu.launch(stream, nothing)
    check_as_read(trace_text(timeline._read()))


def test_two_spans_that_start_together_as_read():
    with interop.sim.simulate() as gpu, interop.Timeline() as timeline:
        stream = interop.new_stream()
        with timeline.span("outer", stream), timeline.span("inner", stream):
            gpu.launch(stream, nothing)
        with timeline.span("outer", stream):
            with timeline.span("inner", stream):
                gpu.launch(stream, nothing)
            gpu.launch(stream, nothing)
    text = trace_text(timeline._read())
    check_as_read(text)
    assert [event["name"] for event in events_of(text) if event["ph"] == "X"] == ["outer", "inner"] * 2


def test_two_spans_that_end_together_as_read():
    lane = Lane(0, "interop", "a", 0)
    spans = (Span("outer", lane, 0.4e-6, 2000.6e-6), Span("inner", lane, 1.6e-6, 2000.6e-6))
    text = trace_text(Reading("ms", (lane,), spans, (), 0, 0.0))
    check_as_read(text)
    assert len(slices_of(events_of(text))) == 1


def test_two_spans_of_two_threads_on_one_stream_as_read():
    lane, other = Lane(0, "interop", "a", 0), Lane(1, "interop", "b", 0)
    spans = (Span("one", lane, 0.0, 2.0), Span("other", lane, 1.0, 3.0), Span("elsewhere", other, 1.0, 3.0))
    text = trace_text(Reading("ms", (lane, other), spans, (), 0, 0.0))
    check(text)
    check_as_read(text)
    events = events_of(text)
    names = {thread_of(event): event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert len(names) == 3
    assert {event["name"]: names[thread_of(event)] for event in events if event["ph"] == "X"} == {
        "one": "interop a",
        "other": "interop a",
        "elsewhere": "interop b",
    }


lengths = st.tuples(st.floats(0, 1e5), st.floats(0, 1e5) | st.floats(0, 1e-5)).map(lambda at: (at[0], at[0] + at[1]))


@settings(deadline=None)
@given(st.lists(lengths, max_size=8))
def test_any_spans_of_any_threads_as_read(ends):
    lane = Lane(0, "interop", "a", 0)
    spans = tuple(Span(str(number), lane, *span) for number, span in enumerate(ends))
    text = trace_text(Reading("ms", (lane,), spans, (), 0, 0.0))
    events = check(text)
    check_as_read(text)
    for span, event in zip(spans, sorted(slices_in(events), key=lambda event: int(event["name"])), strict=True):
        assert event["ts"] == pytest.approx(1000 * span.start, abs=0.001)
        assert event["dur"] == pytest.approx(1000 * (span.end - span.start), abs=0.002)


def slices_in(events):
    return [event for event in events if event["ph"] == "X"]


def test_perfetto_reads_every_nanosecond_exactly():
    for nanoseconds in range(1, 10000):
        assert int(_microseconds(nanoseconds) * 1000.0) == nanoseconds
        assert round(_microseconds(nanoseconds) * 1000.0) == nanoseconds


def test_no_process_and_no_thread_of_a_trace_has_number_0():
    lane = Lane(0, "interop", "a", 0)
    events = check(trace_text(Reading("ms", (lane,), (Span("one", lane, 0.0, 2.0),), (), 0, 0.0)))
    assert {event["pid"] for event in events} == {1}
    assert {event["tid"] for event in events if event["name"] != "process_name"} == {1}
