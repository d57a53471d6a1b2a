"""The goals: the ratio of interop's time to that of another row, and what hand-overs may leave behind."""

from typing import Final

from benchmarks import handovers, left, pingpong
from benchmarks.lab import FOREIGN, OURS, PATHS, PEERS, C
from benchmarks.left import Left
from benchmarks.results import Table

GOALS: Final[dict[tuple[str, str], float]] = {
    ("wait_stream", C): 1.3,
    ("wait_stream", "cuda.core"): 0.55,
    ("wait_stream", "CuPy"): 0.3,
    ("wait_stream", "torch"): 0.15,
    **{(f"wait_stream, {library}'s stream", C): 1.8 for library in ("CuPy", "torch", "Numba")},
    **{(call, C): 1.6 for call in ("record, event reused", "wait_event")},
    **{(call, "cuda.core"): 1.0 for call in ("record, event reused", "wait_event")},
    ("record, new event", C): 1.4,
    **{("record, new event", library): 1.0 for library in PEERS},
    ("query", C): 1.5,
    ("query", "CuPy"): 1.05,
    ("synchronize", C): 1.35,
    **{("synchronize", library): 1.05 for library in ("CuPy", "cuda.core")},
    **{(f"as_stream, {library}'s stream", C): 1.0 for library in FOREIGN},
    **{(f"to({PATHS[library]}), again", C): 0.25 for library in FOREIGN},
    ("use, CuPy and torch together (torch: alone)", "torch"): 1.0,
    **{
        (handovers.name(source, target), own): 1.25 if target == "Numba" else 1.5
        for source, target in handovers.WAYS
        for own in handovers.OWN[target]
        if source != "Numba"
    },
    ("borrow, one array", "interop.handoff"): 1.4,
    ("borrow, eight arrays", "borrow, one array"): 5,
    (handovers.IN_THREADS, handovers.ONE_THREAD): 2.5,
    ("round, CuPy and Numba, kept arrays", pingpong.SHARED): 1.0,
    ("round, CuPy and Numba, kept arrays", pingpong.READS): 0.5,
    ("round, CuPy and Numba, new arrays", pingpong.HOST_AND_CONVERT): 1.0,
}
"""The greatest ratio, by (operation, label of the other row)."""

LEFT: Final = {"objects": 0, "device": 0, "host": 1 << 20}
"""What a million hand-overs may leave: objects, and bytes on the device and the host."""

MET, MISSED, UNKNOWN = "met", "**missed**", "not measured"


def verdict(table: Table, operation: str, other: str) -> str:
    """Whether the median ratio of a run meets a goal."""
    ratio = table.ratio(operation, OURS, other)
    if ratio is None:
        return UNKNOWN
    return MET if ratio.median <= GOALS[operation, other] else MISSED


def left_verdict(found: Left, what: str) -> str:
    """Whether a run meets the goal for *what* is left. Fewer than a million hand-overs can only miss it."""
    if found.error:
        return UNKNOWN
    if getattr(found, what) > LEFT[what]:
        return MISSED
    return MET if found.made >= left.COUNT else UNKNOWN
