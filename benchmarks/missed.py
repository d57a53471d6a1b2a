"""Why goals are missed: what the time goes into, what was tried, and what would be needed. For the report.

The figures of a run are from that run, and the counts from ledger.json; what a text says of its own was measured apart.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Final

from benchmarks import ledger, pingpong
from benchmarks.goals import Goal
from benchmarks.operations import OURS, C
from benchmarks.process import NATIVE
from benchmarks.results import Table

Key = tuple[str, str | None, str]
"""Operation, what it is measured against, and the label of interop's row."""

UNKNOWN: Final = "Nobody has looked into it yet."

_CAPTURES: Final = (
    "Interop makes three calls of the driver that the others do not make: whether the stream captures, since to ask it "
    "anything else would break that capture, and the thread's capture mode out and back, since to ask any stream would "
    "break a capture in the modes global and thread-local. Measured apart, from C on an H100, the first takes 16 ns "
    "and the other two 7 ns each, 30 ns in all; the driver's query itself takes 160 ns."
)
_GIL: Final = (
    "Around the driver's calls are {instructions} instructions; to give the GIL up and take it again is about half of "
    "them."
)
_NEEDED: Final = (
    "Tried: all the calls share one release of the GIL. Needed: a call of the driver that breaks no capture, or not to "
    "look, or to keep the GIL while the driver is busy. None of these is wanted."
)
_TAKES: Final = "A call takes {ours}, and {against}'s {theirs}: {behind} more."
_QUERY: Final = (
    f"{_TAKES} {_CAPTURES} {_GIL} How many nanoseconds these are on the machine of the run was not measured. {_NEEDED}"
)
_SYNCHRONIZE: Final = (
    f"{_TAKES} {_CAPTURES} {_GIL} A query makes these calls too, and has about as many instructions around them; where "
    "interop is further behind than with a query, that is not explained by them, nor by anything else that is known. "
    f"{_NEEDED}"
)
_ONE_MORE: Final = (
    f"{_TAKES} Interop makes one call of the driver more: it asks whether the stream captures, so that no capture is "
    f"broken. Measured apart, from C on an H100, that takes 16 ns. {_GIL} Tried: both calls share one release of the "
    "GIL. Needed: not to ask, or to keep the GIL while the driver is busy. Neither is wanted."
)
_WAITS: Final = (
    "A round takes {ours}, and {theirs} where it is: {against}. It is two launches and two waits; a `wait_stream` by "
    "itself takes {wait}. What goes beyond two of these was not profiled: the launches, the device, which does the one "
    "after the other, and scatter."
)
_HAND_OVERS: Final = (
    "A round takes {ours}, and {theirs} where it is: {against}. It is two launches and two hand-overs that were "
    "made before; by themselves, these two take {again}. Measured apart, in the same loop on an H100, with the "
    "clock read around each: there 3.6 us, back 3.9 us, and a wait, where it is only that, 1.6 us. So between "
    "launches each takes a few times what it takes by itself, presumably since a launch leaves little of it in the "
    "processor's caches. Which view is launched, the one handed over or the library's own, makes no difference "
    "(64.6 and 64.8 us a round). Tried: the hand-over in C, as it is. Needed: less to look at each time, by which "
    "it is known that the arrays are the same ones still."
)

_ASKED: Final = (
    "A call takes {ours}. This goal is a time and no ratio, and the processor's speed differs twofold from run to"
    " run, and within one: in five runs of the same code one after the other, this took 240, 274, 236, 641 and "
    "474 ns, and a stream of CuPy's 273, 156, 136, 299 and 282. Unlike that one, the object is asked each time "
    "whether it was closed, since CUDA crashes on a stream that is gone. Tried: to ask it in C. Needed: a "
    "cuda.core that says so at less cost, or tells when a stream is closed."
)

WHY: Final[Mapping[Key, str]] = {
    ("as_stream, cuda.core's stream", None, OURS): _ASKED,
    **{("query", against, OURS): _QUERY for against in (C, "CuPy")},
    **{("synchronize", against, OURS): _SYNCHRONIZE for against in (C, "CuPy", "cuda.core")},
    **{(operation, "cuda.core", OURS): _ONE_MORE for operation in ("record, event reused", "wait_event")},
    **{
        ("CuPy <-> Numba", against, label): text
        for label, text in ((pingpong.BY_WAIT, _WAITS), (pingpong.BY_KEPT_HANDOFF, _HAND_OVERS))
        for against in (pingpong.DEFAULT, pingpong.SHARED)
    },
}


def key(goal: Goal) -> Key:
    """No two goals have the same."""
    return (goal.operation, goal.against, goal.label)


def why(goal: Goal, table: Table) -> str:
    """Why a goal is missed, with the figures of the run."""
    text = WHY.get(key(goal))
    if text is None:
        return UNKNOWN
    ours = _together(table, [(goal.operation, goal.label)])
    theirs = _together(table, [(goal.operation, goal.against or "")])
    again = [(f"handoff, {way}, again", OURS) for way in ("CuPy to Numba", "Numba to CuPy")]
    counts = json.loads(ledger.RECORD.read_text())["instructions"][NATIVE]
    return text.format(
        against=goal.against,
        ours=_nanoseconds(ours),
        theirs=_nanoseconds(theirs),
        behind=_nanoseconds(ours - theirs if ours and theirs else None),
        wait=_nanoseconds(_together(table, [("wait_stream", OURS)])),
        again=_nanoseconds(_together(table, again)),
        instructions=counts.get(goal.operation, {}).get(ledger.CLOSED),
    )


def _together(table: Table, rows: Iterable[tuple[str, str]]) -> float | None:
    found = [table.get(*row) for row in rows]
    times = [table.ns(row).median for row in found if row]
    return sum(times) if len(times) == len(found) else None


def _nanoseconds(time: float | None) -> str:
    return "(not measured)" if time is None else f"{time:,.0f} ns"
