"""A timeline as a trace that Perfetto and ``chrome://tracing`` open.

The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU. In the trace, a device is a
process and a stream is a thread. Spans of a stream that partly overlap go to a second thread of the same name. Each end
of an arrow is a slice without length, because viewers draw flows between slices only.
"""

import json
import math
from collections.abc import Iterator
from typing import Any, Final

from interop.timeline.nesting import outer_first, places
from interop.timeline.reading import Arrow, Lane, Reading
from interop.timeline.selection import by_lane

_NANOSECONDS: Final = 1e6
"""Nanoseconds in a millisecond. A step of the simulator is shown as a millisecond."""


def trace_text(reading: Reading) -> str:
    """The trace as JSON."""
    other = {"made by": "interop.Timeline", "notes": " ".join(reading.notes)}
    trace = {"traceEvents": list(_events(reading)), "displayTimeUnit": "ms", "otherData": other}
    return json.dumps(trace, indent=1, ensure_ascii=False)


def _events(reading: Reading) -> Iterator[dict[str, Any]]:
    simulated = " (SIMULATED: a step of 1 ms is a kernel)" if reading.unit == "steps" else ""
    for device in sorted({lane.device for lane in reading.lanes}):
        yield _named("process_name", _process(device), 0, name=f"device {device}{simulated}")
    slices = []
    of = by_lane(reading.spans)
    for lane in reading.lanes:
        # Rounding comes before nesting: after it, spans could overlap that did not before.
        spans = [span._replace(start=_rounded(span.start), end=_rounded(span.end)) for span in of[lane]]
        rows = [row for row, _ in places(spans)]
        for row in range(1 + max(rows, default=0)):
            # The first rows of all lanes come before the second rows.
            thread = _thread(lane) + row * len(reading.lanes)
            yield _named("thread_name", _process(lane.device), thread, name=f"{lane.library} {lane.name}".lstrip())
            yield _named("thread_sort_index", _process(lane.device), thread, sort_index=lane.number)
        # chrome://tracing takes the first slice in the file for the outer one.
        for i in outer_first(spans):
            name, _, start, end = spans[i]
            thread = _thread(lane) + rows[i] * len(reading.lanes)
            slices.append(_slice(name, "span", lane.device, thread, int(start), int(end)))
    yield from slices
    for number, arrow in enumerate(reading.arrows, 1):
        yield from _flow(arrow, number)


# Some viewers take process 0 and thread 0 for an idle processor, and hide them.
def _process(device: int) -> int:
    return device + 1


def _thread(lane: Lane) -> int:
    return lane.number + 1


def _rounded(at: float) -> int:
    """A position in nanoseconds. Perfetto reads nothing finer."""
    return round(at * _NANOSECONDS)


def _microseconds(nanoseconds: int) -> float:
    """The number for the file. Perfetto multiplies it by 1000, and drops the fraction."""
    found = nanoseconds / 1000
    return found if found * 1000 >= nanoseconds else math.nextafter(found, math.inf)


def _named(what: str, process: int, thread: int, **args: object) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": args}


def _slice(name: str, category: str, device: int, thread: int, start: int, end: int, **args: object) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": _process(device),
        "tid": thread,
        "ts": _microseconds(start),
        "dur": _microseconds(max(end - start, 0)),
        "args": args,
    }


def _flow(arrow: Arrow, number: int) -> Iterator[dict[str, Any]]:
    # A flow runs forwards in time. The two ends are recorded one by one, and may be some microseconds off.
    recorded = min(arrow.recorded, arrow.waited)
    args = {"arrays": arrow.arrays} if arrow.arrays else {}
    ends: tuple[tuple[str, dict[str, str], str, Lane, float], ...] = (
        ("s", {}, f"record, for {arrow.consumer}", arrow.producer, recorded),
        ("f", {"bp": "e"}, f"{arrow.kind}, for {arrow.producer}", arrow.consumer, arrow.waited),
    )
    for phase, binding, name, lane, position in ends:
        at = _rounded(position)
        yield _slice(name, arrow.kind, lane.device, _thread(lane), at, at, **args)
        yield {
            "ph": phase,
            "name": arrow.kind,
            "cat": "order",
            "id": number,
            "pid": _process(lane.device),
            "tid": _thread(lane),
            "ts": _microseconds(at),
            **binding,
        }
