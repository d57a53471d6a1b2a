"""Write the parts of the pages that state measurements, from the files that the measuring runs have left.

``make docs``, or ``python -m docs.update``. A part stands between ``<!-- name -->`` and ``<!-- /name -->``.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks import goals, ledger, pingpong
from benchmarks import report as benchmark_report
from benchmarks.growth import IN_THREADS
from benchmarks.lab import FOREIGN
from benchmarks.measure import Measured
from benchmarks.operations import DRIVER, C
from benchmarks.operations import OURS as INTEROP
from benchmarks.process import NATIVE, PYTHON, benchmarks_sha256
from benchmarks.results import Results, Spread, Table
from interop import matrix
from interop.matrix import report as matrix_report
from interop.matrix.libraries import LIBRARIES
from tests.gpu.record import interop_sha256

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_SECTION: Final = re.compile(r"<!-- ([a-z-]+) -->\n.*?<!-- /\1 -->", re.DOTALL)


def updated(text: str, folder: Path = ROOT) -> str:
    """A page with its parts as they have to be, from the files under *folder*.

    Raises:
        KeyError: the page has a part that nobody writes.
    """

    def written(found: re.Match[str]) -> str:
        name = found[1]
        path, how, lines = SECTIONS[name]
        path, _, entry = path.partition("#")
        source = folder / path
        if source.exists() and (not entry or entry in json.loads(source.read_text())):
            body = "\n".join(lines(source))
        else:
            what = f"entry `{entry}` in `{path}`" if entry else f"`{path}`"
            body = f"*Not measured yet: there is no {what}, which `{how}` writes.*"
        return f"<!-- {name} -->\n{body}\n<!-- /{name} -->"

    return _SECTION.sub(written, text)


def _run(about: Mapping[str, Any]) -> str:
    """Where and when it was measured."""
    return f"{about['gpu']}, driver {about['driver']}, {about['date']}"


# -- the matrix ----------------------------------------------------------------------------------------------------


def _matrix(path: Path) -> Iterator[str]:
    yield from matrix_report.markdown(json.loads(path.read_text())["rows"])


def _matrix_summary(path: Path) -> Iterator[str]:
    """What comes of each pair by default, after the writer's block; and how often what comes of all."""
    record = json.loads(path.read_text())
    rows = record["rows"]
    consumers = [name for name in LIBRARIES if name in {row["consumer"] for row in rows}]
    yield f"| from ↓ to → | {' | '.join(LIBRARIES[name].title for name in consumers)} |"
    yield "|---" * (len(consumers) + 1) + "|"
    for producer in dict.fromkeys(row["producer"] for row in rows):
        cells = [
            " / ".join(dict.fromkeys(_bold(row["after"]) for row in rows if _is_default(row, producer, consumer)))
            for consumer in consumers
        ]
        yield f"| {LIBRARIES[producer].title} | {' | '.join(cells)} |"
    yield ""
    for who, ours in (("By default", False), ("By `interop.handoff` and `interop.borrow`", True)):
        seen = Counter(
            row[when].partition(":")[0] for row in rows for when in matrix.WHEN if (row["route"] in matrix.OURS) == ours
        )
        del seen[matrix.NONE]
        total = sum(seen.values())
        counts = ", ".join(f"{count} {_bold(outcome)}" for outcome, count in seen.most_common())
        yield f"{who}, of all {total} cases: {counts}.  "
    yield f"({_run(record)}; [versions and rows](tests/gpu/matrix.json).)"


def _is_default(row: Mapping[str, str], producer: str, consumer: str) -> bool:
    return (row["producer"], row["consumer"]) == (producer, consumer) and row["route"] not in matrix.OURS


def _bold(outcome: str) -> str:
    outcome = outcome.partition(":")[0]
    return f"**{outcome}**" if outcome == matrix.RACE else outcome


# -- benchmarks ----------------------------------------------------------------------------------------------------


def _benchmarks(path: Path) -> Iterator[str]:
    results = Results.read(path)
    yield from benchmark_report.summary(results)
    yield ""
    yield from _hand_overs(results)
    yield ""
    quick = ", a quick run" if results.options.get("quick") else ""
    yield f"({_run(results.machine)}{quick}; medians. [All of it](benchmarks/results.json).)"
    yield from _changed(results.machine)
    if results.machine.get("benchmarks_sha256") != benchmarks_sha256():
        yield "The benchmarks have been changed since that run."


def _changed(about: Mapping[str, Any]) -> Iterator[str]:
    """Whether the code is still what was measured."""
    if about.get("interop_sha256") != interop_sha256():
        yield "The code has been changed since that run."


def _from_c(path: Path) -> Iterator[str]:
    """What C is here; and how interop is beside the functions that it calls itself."""
    table = Table(Results.read(path).rows)
    yield "C makes the calls of the CUDA runtime, with a new event where the line says so; interop"
    yield "calls the driver itself, and takes its events from a pool: so it can be below 1."
    rows = {operation: table.get(operation, INTEROP) for operation in benchmark_report.SHORT}
    ratios = {operation: table.ratio(row, DRIVER) for operation, row in rows.items() if row}
    found = [f"{operation} {ratio.median:.2f}" for operation, ratio in ratios.items() if ratio]
    if found:
        yield f"Against the driver's own calls from C it is: {'; '.join(found)}."
    yield f"{benchmark_report.THREE} ([All figures](benchmarks/results.md).)"


class _Beside(NamedTuple):
    """A row of interop's, the label of a row beside it, and what that is in words."""

    operation: str
    label: str
    whose: str
    size: int | None = None


_SLOW: Final[Mapping[str, Sequence[_Beside]]] = {
    "another library's event (`wait_event` of CuPy's: {})": [_Beside("wait_event, CuPy's event", C, "C")],
    "wrapping an object with `__cuda_stream__` ({})": [
        _Beside("wrap an object with __cuda_stream__", library, library) for library in ("cuda.core", "CuPy")
    ],
    "waiting for one ({})": [
        _Beside("wait_stream, an object with __cuda_stream__", label, label) for label in (C, "cuda.core")
    ],
    "an object that its library makes anew each time (`as_stream(torch.cuda.current_stream())`: {})": [
        _Beside("as_stream, a new torch object", "torch", "`torch.cuda.current_stream()` alone")
    ],
    "waiting for one of these ({})": [
        _Beside("wait_stream, a new torch object", label, label) for label in (C, "torch")
    ],
    "the first `to` of a stream ({})": [
        _Beside(f"wrap, and to({path}) first", library, f"{library}'s own wrapping")
        for library, path in FOREIGN.items()
    ],
    "`use` of CuPy alone ({})": [_Beside("enter and leave, CuPy", "CuPy", "CuPy's own `with`")],
    "the first hand-over of an array (CuPy to PyTorch: {})": [
        _Beside("handoff, CuPy to torch (peer: conversion alone)", "torch", "the bare conversion")
    ],
    "`wait_stream` in eight threads at once, where each call gives up the GIL, which C does without ({})": [
        _Beside(IN_THREADS, C, "C", 8)
    ],
}
"""What may be slower than something else; ``{}`` stands for how many times what."""


def _not_fast(path: Path) -> Iterator[str]:
    """What a reader should know before the program has many of these calls: where interop is slower than others."""
    table = Table(Results.read(path).rows)
    what = []
    for text, rows in _SLOW.items():
        times = [
            f"{ratio.median:.1f} times {beside.whose}"
            for beside in rows
            if (row := table.get(beside.operation, INTEROP, beside.size))
            and (ratio := table.ratio(row, beside.label))
            and ratio.median > 1
        ]
        if times:
            what.append(text.format(", ".join(times)))
    if what:
        yield f"What is not fast: {'; '.join(what)}."


def _goals(path: Path) -> Iterator[str]:
    """How many goals are missed, and by how much; those beyond the others apart."""
    verdicts = goals.verdicts(Table(Results.read(path).rows))
    asked, beyond = ([verdict for verdict in verdicts if verdict.goal.beyond == which] for which in (False, True))
    yield f"Of the {len(asked)} goals in [benchmarks/results.md](benchmarks/results.md), {_counted(asked)}"
    yield f"Of {len(beyond)} more that go beyond them, {_counted(beyond)}"


def _counted(verdicts: Sequence[goals.Verdict]) -> str:
    missed = [_missed(*verdict) for verdict in verdicts if verdict.met is False]
    unknown = sum(verdict.met is None for verdict in verdicts)
    count = f"{unknown} were not measured in that run, and {len(missed)}" if unknown else f"{len(missed)}"
    said = f"{count} {'is' if len(missed) == 1 else 'are'} missed"
    return f"{said}: {'; '.join(missed)}." if missed else f"{said}."


def _missed(goal: goals.Goal, measured: Spread | None) -> str:
    assert measured is not None  # or it would not be missed
    name = benchmark_report.name(goal)
    if goal.against is None:
        return f"{name} ({measured.median:,.0f} ns, goal {goal.at_most:g})"
    return f"{name} ({measured.median:.2f} times {goal.against}, goal {goal.at_most:g})"


def _there_and_back(path: Path) -> Iterator[str]:
    """The table of rounds; and in words what a batch of hand-overs is, which is no single one."""
    results = Results.read(path)
    table = Table(results.rows)
    game = "CuPy <-> Numba"
    ours, plain, new = (
        table.get(game, label) for label in (pingpong.BY_HANDOFF, pingpong.DEFAULT, pingpong.BY_NEW_HANDOFF)
    )
    if ours and plain and (shared := table.ratio(ours, pingpong.SHARED)) and (faster := table.ratio(plain, ours.label)):
        yield f"Handed over again and again, in batches of about {ours.calls} rounds with one conversion each, a {game}"
        yield f"round took {shared.median:.2f} times one shared stream, and was {faster.median:.1f} times as fast as"
        yield "reading each other's array interface."
        yield from _slower("It was", table, ours)
        yield "With the views kept, as in a loop that goes on, nothing is converted; new each round, everything is."
    if new:
        yield from _slower("A round with a hand-over that is new was", table, new)
    yield ""
    yield from benchmark_report.ping_pong(results.rows)


def _slower(what: str, table: Table, row: Measured) -> Iterator[str]:
    """That a round by interop takes longer than what programs do without it, if it does."""
    others = {pingpong.HOST: "synchronising the host", pingpong.DEFAULT: "reading each other's array interface"}
    longer = [
        f"than {what} ({ratio.median:.1f} times as long)"
        for label, what in others.items()
        if (ratio := table.ratio(row, label)) and ratio.median > 1
    ]
    if longer:
        yield f"{what} slower {' and '.join(longer)}."


def _hand_overs(results: Results) -> Iterator[str]:
    """The first hand-over of an array beside the same again."""
    table = Table(results.rows)
    pairs = {found[1]: None for row in results.rows if (found := re.match(r"handoff, (\w+ to \w+)", row.operation))}
    yield f"| `handoff`, microseconds | {' | '.join(pairs)} |"
    yield "|---" * (len(pairs) + 1) + "|"
    for when, name in (("an array for the first time", " (peer: conversion alone)"), ("the same again", ", again")):
        rows = [table.get(f"handoff, {pair}{name}", INTEROP) for pair in pairs]
        times = [f"{table.ns(row).median / benchmark_report.MICRO:.1f}" if row else "" for row in rows]
        yield f"| {when} | {' | '.join(times)} |"


# -- what is counted without a GPU ---------------------------------------------------------------------------------


def _instructions(path: Path) -> Iterator[str]:
    record = json.loads(path.read_text())
    query, wait, plain_query, plain_wait = (
        f"{record['instructions'][way][call][ledger.CLOSED]:,}"
        for way in (NATIVE, PYTHON)
        for call in ("query", "wait_stream")
    )
    yield f"Around the driver's calls, `query` is {query} instructions and `wait_stream` {wait}; without the extension"
    yield f"{plain_query} and {plain_wait}, not counting those inside cuda-python. (Counted by callgrind, on Python"
    yield f"{record['python']}; [the record](benchmarks/ledger.json).)"
    yield from _changed(record)


def _ledger_cost(path: Path) -> Iterator[str]:
    """As ratios: closed to without the look, and open to closed."""
    record = json.loads(path.read_text())
    times = record[ledger.TIMES]
    yield "| | the look, in C | the look, in Python | open, in C | open, in Python | open, simulated: time |"
    yield "|---" * 6 + "|"
    for call in times:
        counts = [record["instructions"][way][call] for way in (NATIVE, PYTHON)]
        looks = [f"{of[ledger.CLOSED] / of[ledger.WITHOUT]:.3f}" for of in counts]
        opened = [f"{of[ledger.OPEN] / of[ledger.CLOSED]:.1f}" for of in (*counts, times[call])]
        yield f"| {call} | {' | '.join([*looks, *opened])} |"
    yield ""
    yield f"(Python {record['python']}, {record['compiler']}, {record['cpu']}, {record['date']}; no GPU.)"
    yield from _changed(record)


# -- the suite on a GPU, and its bugs ------------------------------------------------------------------------------


def _gpu_suite(path: Path) -> Iterator[str]:
    record = json.loads(path.read_text())
    counts = ", ".join(f"{record[what]:,} {what}" for what in ("passed", "failed", "skipped"))
    gpus = f"{record['gpus']} x " if record["gpus"] > 1 else ""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items() if version)
    code = record["interop_sha256"]
    yield f"{counts}, on {gpus}{_run(record)}; {versions}; sha256 of the code `{code[:12]}...`"
    if code != interop_sha256():
        yield ""
        yield "The code has been changed since; what is said here of GPUs, on this page and in the notebooks,"
        yield "is of that run."


def _bugs(path: Path) -> Iterator[str]:
    """One row a bug, with all that was found out about it in few words."""
    entry = json.loads(path.read_text())["bugs"]
    rows = entry["rows"]
    columns = [name for name in rows[0] if name not in ("bug", "fix")]
    yield f"| bug | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for row in rows:
        yield f"| {row['bug'].replace('_', ' ')} | {' | '.join(str(row[name]) for name in columns)} |"
    yield ""
    yield f"({_run(entry)}.)"


def _asyncio(path: Path) -> Iterator[str]:
    entry = json.loads(path.read_text())["asyncio"]
    share = f"{entry['cpu_share']:.1%} of a core"
    yield f"{entry['streams']} streams, awaited at once in one loop, took {share} ({_run(entry)})."


def _doctor(path: Path) -> Iterator[str]:
    entry = json.loads(path.read_text())["doctor"]
    yield "```console"
    yield from entry["shown"].splitlines()
    yield "```"
    yield ""
    yield f"({_run(entry)}.)"


SECTIONS: Final[dict[str, tuple[str, str, Callable[[Path], Iterable[str]]]]] = {
    "matrix-summary": ("tests/gpu/matrix.json", "make gpu-test", _matrix_summary),
    "matrix": ("tests/gpu/matrix.json", "make gpu-test", _matrix),
    "benchmarks": ("benchmarks/results.json", "make bench", _benchmarks),
    "from-c": ("benchmarks/results.json", "make bench", _from_c),
    "not-fast": ("benchmarks/results.json", "make bench", _not_fast),
    "goals": ("benchmarks/results.json", "make bench", _goals),
    "there-and-back": ("benchmarks/results.json", "make bench", _there_and_back),
    "instructions": ("benchmarks/ledger.json", "python -m benchmarks ledger", _instructions),
    "ledger-cost": ("benchmarks/ledger.json", "python -m benchmarks ledger", _ledger_cost),
    "gpu-suite": ("tests/gpu/last_run.json", "make gpu-test", _gpu_suite),
    "bugs": ("tests/gpu/measured.json#bugs", "make gpu-test", _bugs),
    "asyncio": ("tests/gpu/measured.json#asyncio", "make gpu-test", _asyncio),
    "doctor": ("tests/gpu/measured.json#doctor", "make gpu-test", _doctor),
}
"""Of each part: the file that it is made from, and the entry in it, what writes that, and how the lines are made."""


def main() -> None:
    """Write the pages anew."""
    for page in PAGES:
        page.write_text(updated(page.read_text()))


if __name__ == "__main__":
    main()
