"""A timeline as a trace that Perfetto and ``chrome://tracing`` open.

The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU. In it a device is a
process, and a stream a thread. The ends of an arrow are slices of no length, because viewers draw flows between slices
only.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

from interop.timeline.reading import Arrow, Lane, Reading

_MICROSECONDS: Final = 1000.0
"""In a millisecond; and for a step of the simulator."""


def trace_text(reading: Reading) -> str:
    """The trace as JSON."""
    other = {"made by": "interop.Timeline", "notes": " ".join(reading.notes)}
    trace = {"traceEvents": list(_events(reading)), "displayTimeUnit": "ms", "otherData": other}
    return json.dumps(trace, indent=1, ensure_ascii=False)


def _events(reading: Reading) -> Iterator[dict[str, Any]]:
    simulated = " (SIMULATED: a step of 1 ms is a kernel)" if reading.unit == "steps" else ""
    for device in sorted({lane.device for lane in reading.lanes}):
        yield _named("process_name", device, 0, name=f"device {device}{simulated}")
    for lane in reading.lanes:
        yield _named("thread_name", lane.device, _thread(lane), name=f"{lane.library} {lane.name}".lstrip())
        yield _named("thread_sort_index", lane.device, _thread(lane), sort_index=lane.number)
    for name, lane, start, end in reading.spans:
        yield _slice(name, "span", lane, start, end - start)
    for number, arrow in enumerate(reading.arrows, 1):
        yield from _flow(arrow, number)


def _thread(lane: Lane) -> int:
    return lane.number + 1  # thread 0 is the idle thread to some viewers


def _named(what: str, process: int, thread: int, **args: object) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": args}


def _slice(name: str, category: str, lane: Lane, at: float, length: float, **args: object) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": lane.device,
        "tid": _thread(lane),
        "ts": at * _MICROSECONDS,
        "dur": max(length, 0.0) * _MICROSECONDS,
        "args": args,
    }


def _flow(arrow: Arrow, number: int) -> Iterator[dict[str, Any]]:
    # A flow runs forwards; the two ends were recorded by themselves, and may be some microseconds off.
    recorded = min(arrow.recorded, arrow.waited)
    args = {"arrays": arrow.arrays} if arrow.arrays else {}
    ends: tuple[tuple[str, dict[str, str], str, Lane, float], ...] = (
        ("s", {}, f"record, for {arrow.consumer}", arrow.producer, recorded),
        ("f", {"bp": "e"}, f"{arrow.kind}, for {arrow.producer}", arrow.consumer, arrow.waited),
    )
    for phase, binding, name, lane, at in ends:
        yield _slice(name, arrow.kind, lane, at, 0.0, **args)
        yield {
            "ph": phase,
            "name": arrow.kind,
            "cat": "order",
            "id": number,
            "pid": lane.device,
            "tid": _thread(lane),
            "ts": at * _MICROSECONDS,
            **binding,
        }
