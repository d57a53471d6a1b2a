"""A run in words: what each operation costs by library, what grows how, and which goals are met. Markdown."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

from benchmarks import goals, missed
from benchmarks.growth import IN_THREADS
from benchmarks.lab import LIBRARIES
from benchmarks.measure import Measured
from benchmarks.operations import DRIVER, OURS, C
from benchmarks.results import Results, Spread, Table, spread

MICRO = 1000
MILLI = 1e3


def report(results: Results) -> Iterator[str]:
    """The lines of the whole report."""
    yield "# What the calls cost"
    yield ""
    yield from _provenance(results)
    yield ""
    yield from summary(results)
    yield ""
    yield "## Call by call"
    yield ""
    yield from calls(results)
    yield ""
    yield "## There and back"
    yield ""
    yield from ping_pong(results.rows)
    if results.other:
        yield ""
        yield f"The {_other(results.path)} way:"
        yield ""
        yield from ping_pong(results.other)
    yield ""
    yield "## Growth"
    yield ""
    yield from growth(results)
    yield ""
    yield "## In a fresh process"
    yield ""
    yield from startup(results)
    yield ""
    yield "## Goals"
    yield ""
    yield from goal_table(results)
    yield from _missed(results)
    yield ""
    yield "## Where others are ahead"
    yield ""
    yield from _behind(results)
    yield from _failures(results)


def _provenance(results: Results) -> Iterator[str]:
    machine, options = results.machine, results.options
    versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items() if version)
    yield f"{machine.get('gpu')}, driver {machine.get('driver')}, {machine.get('cpu')}; {machine.get('date')}."
    yield f"Python {machine.get('python')}, {versions}."
    yield f"Code: sha256 `{machine.get('interop_sha256')}`; interop's calls go the {results.path} way."
    yield ""
    yield (
        f"Each figure is the median of {options.get('batches')} batches; the rows of a line took turns, batch by "
        "batch, and the Python way in a process of its own, with C beside it: there, compare ratios, and not times. "
        "The ratio in brackets is the median of the batches' ratios to C, which makes the same calls of the CUDA "
        "runtime in a loop, with the middle half of them. The statements are in the JSON file beside this one. "
        "Made by `make bench`."
    )


SHORT: Final = (
    "query",
    "synchronize",
    "record, event reused",
    "record, new event",
    "wait_event",
    "wait_stream",
    "wait_stream, the default stream",
    "wait_stream, of three libraries at once",
)
"""The operations that most libraries have."""


def summary(results: Results) -> Iterator[str]:
    """A short table of ratios to C, for a README."""
    table = Table(results.rows)
    yield f"| times what the same CUDA calls take from C | {' | '.join((OURS, *LIBRARIES))} |"
    yield "|---" * (len(LIBRARIES) + 2) + "|"
    for operation in SHORT:
        rows = [table.get(operation, label) for label in (OURS, *LIBRARIES)]
        ratios = [table.ratio(row) if row else None for row in rows]
        yield f"| {operation} | {' | '.join(f'{ratio.median:.2f}' if ratio else '' for ratio in ratios)} |"


def calls(results: Results) -> Iterator[str]:
    """The table of single operations, by library."""
    table, other = Table(results.rows), Table(results.other)
    ours = [OURS, f"{OURS}, times {DRIVER}", *([f"{OURS}, {_other(results.path)} way"] if results.other else [])]
    columns = [C, DRIVER, *ours, *LIBRARIES]
    yield f"| | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for operation in _names(results.rows, "call"):
        cells = [_cell(table, operation, C, with_ratio=False)]
        cells += [_cell(table, operation, label) for label in (DRIVER, OURS)]
        cells.append(_ratio(_to_driver(table, operation)))
        if results.other:
            cells.append(_cell(other, operation, OURS))
        cells += [_cell(table, operation, library) for library in LIBRARIES]
        yield f"| {operation} | {' | '.join(cells)} |"
    yield ""
    yield (
        f"Where there is no ratio, there is no such call in C. *{DRIVER}*: by the functions of the driver, which those "
        f"of the runtime call, and interop too. {THREE}"
    )


THREE: Final = (
    "Of three libraries at once: interop waits for a stream of each, CuPy, torch and Numba, and a library for three of "
    "its own."
)
"""What the peers do where interop waits for three libraries."""


def _to_driver(table: Table, operation: str) -> Spread | None:
    row = table.get(operation, OURS)
    return table.ratio(row, DRIVER) if row else None


def _cell(table: Table, operation: str, label: str, *, with_ratio: bool = True) -> str:
    row = table.get(operation, label)
    if row is None or (label == C and not row.same):
        return ""
    time = _time(table.ns(row).median)
    ratio = table.ratio(row)
    return f"{time} ({_ratio(ratio)})" if with_ratio and row.same and ratio else time


def ping_pong(measured: Iterable[Measured]) -> Iterator[str]:
    """The rounds, by the way in which they are ordered."""
    rows = [row for row in measured if row.group == "ping-pong"]
    table = Table(rows)
    labels = list(dict.fromkeys(row.label for row in rows))
    yield f"| microseconds a round, and times one shared stream | {' | '.join(labels)} |"
    yield "|---" * (len(labels) + 1) + "|"
    for operation in _names(rows, "ping-pong"):
        cells = []
        for label in labels:
            row = table.get(operation, label)
            ratio = table.ratio(row) if row else None
            time = f"{table.ns(row).median / MICRO:.1f}" if row else ""
            cells.append(f"{time} ({_ratio(ratio)})" if ratio and label != labels[0] else time)
        yield f"| {operation} | {' | '.join(cells)} |"


def growth(results: Results) -> Iterator[str]:
    """One table for each thing that grows."""
    for operation in _names(results.rows, "growth"):
        rows = [row for row in results.rows if row.operation == operation]
        sizes = sorted({row.size for row in rows if row.size is not None})
        yield f"| {operation}: nanoseconds a call, and the middle half | {' | '.join(map(str, sizes))} |"
        yield "|---" * (len(sizes) + 1) + "|"
        yield from _curves(rows, sizes, "")
        others = [row for row in results.other if row.operation == operation]
        yield from _curves(others, sizes, f", in the process of the {_other(results.path)} way")
        yield ""
    yield (
        "In threads, a figure is the time by the clock, divided by all the calls of all the threads, and no call's own "
        "time: that is as many times longer as there are threads. The figure falls where no thread holds another one "
        "up."
    )


def _curves(rows: Sequence[Measured], sizes: Sequence[int], where: str) -> Iterator[str]:
    table = Table(rows)
    for operation, label in dict.fromkeys((row.operation, row.label) for row in rows):
        found = [table.get(operation, label, size) for size in sizes]
        times = [table.ns(row) if row else None for row in found]
        cells = [f"{ns.median:,.0f} ({ns.low:,.0f}-{ns.high:,.0f})" if ns else "" for ns in times]
        yield f"| {label}{where} | {' | '.join(cells)} |"


def startup(results: Results) -> Iterator[str]:
    """Imports and first calls."""
    yield "| | after | milliseconds, median | middle half | best | processes |"
    yield "|---|---|---|---|---|---|"
    for row in results.startup:
        if "error" in row:
            cells = [row["error"], "", "", ""]
        else:
            times = [seconds * MILLI for seconds in row["seconds"]]
            middle = spread(times)
            cells = [
                f"{middle.median:,.3f}",
                f"{middle.low:,.3f}-{middle.high:,.3f}",
                f"{min(times):,.3f}",
                f"{len(times)}",
            ]
        yield f"| {row['what']} | {row['after']} | {' | '.join(cells)} |"


def goal_table(results: Results) -> Iterator[str]:
    """Each goal, what was measured, and whether it is met; those that are beyond the others apart."""
    table = Table(results.rows)
    for beyond, which in ((False, "goals"), (True, "goals beyond these")):
        verdicts = [verdict for verdict in goals.verdicts(table) if verdict.goal.beyond == beyond]
        yield f"| operation | {'goal beyond these' if beyond else 'goal'} | measured | | times {DRIVER} |"
        yield "|---|---|---|---|---|"
        for verdict in verdicts:
            goal, measured = verdict
            said = {True: "met", False: "**missed**", None: "not measured"}[verdict.met]
            driver = _spread(_to_driver(table, goal.operation), C) if goal.against == C else ""
            yield f"| {name(goal)} | {_limit(goal)} | {_spread(measured, goal.against)} | {said} | {driver} |"
        yield ""
        yield f"{sum(verdict.met is True for verdict in verdicts)} of {len(verdicts)} {which} are met."
        yield ""
    yield f"The goals against C are of the runtime's functions; beside them are interop's times those of {DRIVER}."


def name(goal: goals.Goal) -> str:
    """The operation, and the way if it is a special one."""
    return goal.operation if goal.label == OURS else f"{goal.operation}: {goal.label}"


def _limit(goal: goals.Goal) -> str:
    return f"<= {goal.at_most:g} ns" if goal.against is None else f"<= {goal.at_most:g} x {goal.against}"


def _missed(results: Results) -> Iterator[str]:
    """Why, for each goal that is."""
    table = Table(results.rows)
    found = [verdict.goal for verdict in goals.verdicts(table) if verdict.met is False]
    for goal in found:
        yield ""
        yield f"### {name(goal)}, {_limit(goal)}"
        yield ""
        yield missed.why(goal, table)


def _behind(results: Results) -> Iterator[str]:
    """Where interop takes longer than a library does, and how it fares in threads."""
    table = Table(results.rows)
    yield f"| | {OURS} | faster |"
    yield "|---|---|---|"
    for operation in _names(results.rows, "call"):
        ours = table.get(operation, OURS)
        faster = []
        for library in LIBRARIES:
            # No other one waits for a foreign event: each one's wait for its own is what there is.
            same = "wait_event" if operation == f"wait_event, {library}'s event" else operation
            theirs = table.get(same, library)
            if ours and theirs and (ns := table.ns(theirs).median) < table.ns(ours).median:
                faster.append(f"{library} {_time(ns)}")
        if ours and faster:
            yield f"| {operation} | {_time(table.ns(ours).median)} | {', '.join(faster)} |"
    yield ""
    yield (
        "A wait for another library's event is beside that library's own, and `as_stream` of a new torch object beside "
        "torch's making of that object."
    )
    sizes = [row.size for row in results.rows if row.operation == IN_THREADS]
    if sizes:
        few, many = (
            [table.get(IN_THREADS, label, size) for label in (C, OURS, *LIBRARIES)] for size in (sizes[0], sizes[-1])
        )
        times = ", ".join(
            f"{one.label} {_time(table.ns(one).median)} and {_time(table.ns(other).median)}"
            for one, other in zip(few, many, strict=True)
            if one and other
        )
        yield ""
        yield (
            "In many threads, calls contend for the GIL: each call gives up the GIL, which C does without, and takes "
            f"it again. A `wait_stream` in {sizes[0]} thread and in {sizes[-1]}, as the time by the clock divided by "
            f"all the calls of all the threads: {times}."
        )
        if few[0] and many[0]:
            held_up = table.ns(many[0]).median / table.ns(few[0]).median
            yield (
                f"C's calls hold each other up too: with {sizes[-1]} threads its figure is {held_up:.2f} times that of "
                f"{sizes[0]}, where it would be {sizes[0]}/{sizes[-1]} if they did not."
            )


def _failures(results: Results) -> Iterator[str]:
    failed = [row for row in [*results.rows, *results.other] if row.error]
    if failed or results.problems:
        yield ""
        yield "## Not measured"
        yield ""
        yield from (f"- {problem}" for problem in results.problems)
        yield from (f"- {row.operation}, {row.label}: `{row.error}`" for row in failed)


def _names(rows: Iterable[Measured], group: str) -> Sequence[str]:
    return [name for name, _ in groupby(row.operation for row in rows if row.group == group)]


def _other(path: str) -> str:
    return "Python" if path == "native" else "native"


def _time(ns: float) -> str:
    return f"{ns:,.0f} ns" if ns < 10 * MICRO else f"{ns / MICRO:,.1f} us"


def _ratio(ratio: Spread | None) -> str:
    return "" if ratio is None else f"{ratio.median:.2f}x, {ratio.low:.2f}-{ratio.high:.2f}"


def _spread(measured: Spread | None, against: str | None) -> str:
    if measured is None:
        return ""
    if against is None:
        return f"{measured.median:.0f} ns ({measured.low:.0f}-{measured.high:.0f})"
    return f"{measured.median:.2f} ({measured.low:.2f}-{measured.high:.2f})"
