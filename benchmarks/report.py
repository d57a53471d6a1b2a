"""A run in Markdown: the machine, a summary of the goals, and one table of everything."""

from collections.abc import Iterator
from typing import Final

from benchmarks import goals, handovers
from benchmarks.goals import MET, MISSED, UNKNOWN
from benchmarks.lab import OURS, PEERS, C
from benchmarks.results import Results, Spread, Table

_MICRO: Final = 1000

SHORT: Final = (
    "query",
    "synchronize",
    "record, event reused",
    "record, new event",
    "wait_event",
    "wait_stream",
    "wait_stream, the default stream",
    "wait_stream, three streams",
)
"""The operations that most libraries have."""


def report(results: Results) -> Iterator[str]:
    """The lines of the whole report."""
    machine, options = results.machine, results.options
    versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items() if version)
    yield "# What the calls cost"
    yield ""
    yield f"{machine.get('gpu')}, driver {machine.get('driver')}, {machine.get('cpu')}; {machine.get('date')}."
    yield f"Python {machine.get('python')}, {versions}."
    yield f"interop's sources have the sha256 `{machine.get('interop_sha256')}`. Made by `make bench`."
    yield ""
    yield (
        f"A time is the median of {options.get('batches')} batches. *Times* says how many times the time beside it "
        "interop takes: the median of the batches' ratios, with the middle half of them; below 1, interop is faster. "
        "The rows of an operation took turns, batch by batch. C makes the same calls of the CUDA runtime, in a loop; "
        "beside `as_stream`, `to` and `use`, which need none, it makes a record and a wait. *In Python* is the ratio "
        "to C without interop's extension in C, from a process of its own. The statements are in the JSON file."
    )
    yield ""
    yield from _goals(results)
    yield ""
    yield from table(results)
    failed = [row for row in (*results.rows, *results.python) if row.error]
    if failed or results.problems:
        yield ""
        yield "Not measured:"
        yield ""
        yield from (f"- {problem}" for problem in results.problems)
        yield from (f"- {row.operation}, {row.label}: `{row.error}`" for row in failed)
        yield from (f"- left behind, {found.way}: `{found.error}`" for found in results.left if found.error)


def _goals(results: Results) -> Iterator[str]:
    said = verdicts(results)
    for verdict in (MET, MISSED, UNKNOWN):
        names = [name for name, other in said.items() if other == verdict]
        yield f"- {len(names)} of {len(said)} goals {verdict}{': ' if verdict == MISSED and names else ''}" + (
            "; ".join(names) if verdict == MISSED else ""
        )


def verdicts(results: Results) -> dict[str, str]:
    """Each goal as text, and whether the run meets it."""
    rows = Table(results.rows)
    said = {
        f"{operation} ({limit:g} x {other})": goals.verdict(rows, operation, other)
        for (operation, other), limit in goals.GOALS.items()
    }
    found = {left.way: left for left in results.left}
    for way in (f"{source} to {target}" for source, target in handovers.WAYS):
        for what in goals.LEFT:
            said[f"left behind, {way}, {what}"] = goals.left_verdict(found[way], what) if way in found else UNKNOWN
    return said


def table(results: Results) -> Iterator[str]:
    """A line for each row that stands beside a row of interop."""
    rows, python = Table(results.rows), Table(results.python)
    yield "| operation | interop | beside | takes | times | in Python | goal | |"
    yield "|---" * 8 + "|"
    before = ""
    for row in results.rows:
        name, label = row.operation, row.label
        if label == OURS:
            continue
        limit = goals.GOALS.get((name, label))
        cells = [_time(rows.ns(name, label)), _ratio(rows.ratio(name, OURS, label))]
        cells.append(_ratio(python.ratio(name, OURS, C)) if label == C else "")
        cells += ["", ""] if limit is None else [f"<= {limit:g}", goals.verdict(rows, name, label)]
        first = ["", ""] if name == before else [name, _time(rows.ns(name, OURS))]
        yield f"| {' | '.join([*first, label, *cells])} |"
        before = name
    for left in results.left:
        first = [f"left behind by {left.made:,} hand-overs, {left.way}", ""]
        for what, limit in goals.LEFT.items():
            found = "" if left.error else f"{getattr(left, what):,}"
            unit = what if what == "objects" else f"bytes of the {what}"
            cells = [unit, found, "", "", f"<= {limit:,}", goals.left_verdict(left, what)]
            yield f"| {' | '.join([*first, *cells])} |"
            first = ["", ""]


def calls(results: Results) -> Iterator[str]:
    """A short table of ratios to C, for docs/speed.md and the README."""
    rows = Table(results.rows)
    yield f"| times what C takes | {' | '.join((OURS, *PEERS))} |"
    yield "|---" * (len(PEERS) + 2) + "|"
    for operation in SHORT:
        ratios = [rows.ratio(operation, label, C) for label in (OURS, *PEERS)]
        yield f"| {operation} | {' | '.join(f'{ratio.median:.2f}' if ratio else '' for ratio in ratios)} |"


def hand_overs(results: Results) -> Iterator[str]:
    """A short table of hand-overs beside the libraries' own conversions, for docs/speed.md."""
    rows = Table(results.rows)
    yield "| from → to | `handoff`, µs | the library's own conversion, µs | times as long |"
    yield "|---|---|---|---|"
    for source, target in handovers.WAYS:
        name = handovers.name(source, target)
        own = {label: found for label in handovers.own(source, target) if (found := rows.ns(name, label))}
        cheapest = min(own, key=lambda label: own[label].median, default="")
        ratio = rows.ratio(name, OURS, cheapest)
        cells = [_micros(rows.ns(name, OURS)), f"{_micros(own[cheapest])}, `{cheapest}`" if own else ""]
        yield f"| {source} → {target} | {' | '.join(cells)} | {f'{ratio.median:.2f}' if ratio else ''} |"


def _micros(found: Spread | None) -> str:
    return "" if found is None else f"{found.median / _MICRO:,.1f}"


def _time(found: Spread | None) -> str:
    if found is None:
        return ""
    ns = found.median
    return f"{ns:,.0f} ns" if ns < 10 * _MICRO else f"{ns / _MICRO:,.1f} µs"


def _ratio(ratio: Spread | None) -> str:
    return "" if ratio is None else f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"
