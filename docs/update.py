"""Write the sections of the pages that state measurements, from the files of the measuring runs.

``make docs``, or ``python -m docs.update``. A section stands between ``<!-- name -->`` and ``<!-- /name -->``.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks import report as benchmark_report
from benchmarks.results import Results
from interop import matrix
from interop.matrix.libraries import LIBRARIES
from tests.gpu.record import interop_sha256
from tests.with_page import GIVE_NO_ADDRESS, LINES, WHY_NOT, WITHOUT_A_GPU

ROOT: Final = Path(__file__).parents[1]
_GENERATED: Final = ROOT / "docs" / "generated"
"""What Sphinx writes, or is given, when it makes the site."""
PAGES: Final = (
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if not page.is_relative_to(_GENERATED)),
)
_MAIN: Final = ("wait_event", "wait_stream")
"""The calls in the README's table of speed."""
_NONE: Final = "\N{EN DASH}"
_BENCHMARKS: Final = "benchmarks/results.json"
_HEAD: Final = 2
"""The lines at the top of a table."""
_SECTION: Final = re.compile(r"<!-- ([a-z-]+) -->\n.*?<!-- /\1 -->", re.DOTALL)


def updated(text: str, folder: Path = ROOT) -> str:
    """The text of a page with its sections written again, from the files under *folder*.

    Raises:
        KeyError: the page has a section that is not in :data:`SECTIONS`.
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
    """The GPU, the driver and the date of a run."""
    return f"{about['gpu']}, driver {about['driver']}, {about['date']}"


def _run_table(about: Mapping[str, Any], **more: object) -> Iterator[str]:
    """A table with one line about a run. Its last cell says whether the run had the present code."""
    same = "yes" if about.get("interop_sha256") == interop_sha256() else "no"
    cells = {**more, "where and when": _run(about), "by the code that is here": same}
    yield f"| {' | '.join(cells)} |"
    yield "|---" * len(cells) + "|"
    yield f"| {' | '.join(map(str, cells.values()))} |"


# -- the matrix ----------------------------------------------------------------------------------------------------


def _counts(rows: list[dict[str, str]]) -> dict[bool, Counter[str]]:
    """How often each outcome was seen: False: by the libraries' own means; True: by interop."""
    return {
        ours: Counter(
            row[when].partition(":")[0] for row in rows for when in matrix.WHEN if (row["route"] in matrix.OURS) == ours
        )
        for ours in (False, True)
    }


def _matrix(path: Path) -> Iterator[str]:
    """A row for each pair, its default routes in one cell, interop's in another."""
    rows = json.loads(path.read_text())["rows"]
    yield "| from → to | by default: inside the producer's `with stream:` / after it / back | by interop |"
    yield "|---|---|---|"
    pairs = dict.fromkeys((row["producer"], row["consumer"]) for row in rows)
    for producer, consumer in pairs:
        of_pair = [row for row in rows if (row["producer"], row["consumer"]) == (producer, consumer)]
        sides = [[row for row in of_pair if (row["route"] in matrix.OURS) == ours] for ours in (False, True)]
        cells = ["<br>".join(map(_shown, side)) for side in sides]
        yield f"| {LIBRARIES[producer].title} → {LIBRARIES[consumer].title} | {' | '.join(cells)} |"


def _shown(row: dict[str, str]) -> str:
    name = row["route"].removeprefix("interop.")
    outcomes = [row[when].partition(":")[0] for when in matrix.WHEN]
    if len(set(outcomes)) == 1:
        outcomes = outcomes[:1]
    said = " / ".join(f"**{outcome}**" if outcome == matrix.RACE else outcome for outcome in outcomes)
    return f"{name if ' ' in name else f'`{name}`'}: {said}"


def _matrix_summary(path: Path) -> Iterator[str]:
    """The outcome of each pair without interop, after the writer's block, and the count of each outcome."""
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
    outcomes = (matrix.RACE, matrix.FAILED, matrix.BLOCKED, matrix.ORDERED)
    yield f"| cases | {' | '.join(map(_bold, outcomes))} |"
    yield "|---" * (len(outcomes) + 1) + "|"
    counts = _counts(rows)
    for who, seen in (("by default", counts[False]), ("by `interop.handoff` and `interop.borrow`", counts[True])):
        yield f"| {who} | {' | '.join(str(seen[outcome]) for outcome in outcomes)} |"
    yield ""
    yield f"({_run(record)}; [versions and rows](../tests/gpu/matrix.json).)"


def _is_default(row: Mapping[str, str], producer: str, consumer: str) -> bool:
    return (row["producer"], row["consumer"]) == (producer, consumer) and row["route"] not in matrix.OURS


def _bold(outcome: str) -> str:
    outcome = outcome.partition(":")[0]
    return f"**{outcome}**" if outcome == matrix.RACE else outcome


# -- benchmarks ----------------------------------------------------------------------------------------------------


def _benchmarks(path: Path) -> Iterator[str]:
    results = Results.read(path)
    yield from benchmark_report.calls(results)
    yield ""
    yield from benchmark_report.hand_overs(results)
    yield ""
    yield from _run_table(results.machine, batches=results.options["batches"])


def _speed(path: Path) -> Iterator[str]:
    """A few lines of the table of calls."""
    results = Results.read(path)
    lines = list(benchmark_report.calls(results))
    yield from (line for line in lines if lines.index(line) < _HEAD or line.split("|")[1].strip() in _MAIN)
    yield ""
    yield f"({_run(results.machine)}; [all figures](docs/speed.md).)"


# -- the suite on a GPU, and its bugs ------------------------------------------------------------------------------


def _gpu_suite(path: Path) -> Iterator[str]:
    record = json.loads(path.read_text())
    counts = {what: f"{record[what]:,}" for what in ("passed", "failed", "skipped")}
    yield from _run_table(record, **counts, GPUs=record["gpus"])


def _versions(path: Path) -> Iterator[str]:
    """A row for each package, and its version in the last run of the GPU suite, of the matrix and of the benchmarks."""
    files = {"GPU suite": path, "matrix": path.with_name("matrix.json"), "benchmarks": path.parents[2] / _BENCHMARKS}
    records = {what: json.loads(file.read_text()) for what, file in files.items() if file.exists()}
    runs = {what: record.get("machine", record) for what, record in records.items()}
    columns = (f"{what}, {run['date']}" for what, run in runs.items())
    yield f"| package | {' | '.join(columns)} |"
    yield "|---" * (len(runs) + 1) + "|"
    for package in sorted({package for run in runs.values() for package in run["versions"]}):
        found = [run["versions"].get(package) for run in runs.values()]
        if any(found):
            yield f"| {package} | {' | '.join(version or _NONE for version in found)} |"


def _bugs(path: Path) -> Iterator[str]:
    """A table with a line for each bug."""
    entry = json.loads(path.read_text())["bugs"]
    rows = entry["rows"]
    columns = [name for name in rows[0] if name not in ("bug", "fix")]
    yield f"| bug | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for row in rows:
        yield f"| {row['bug'].replace('_', ' ')} | {' | '.join(str(row[name]) for name in columns)} |"
    yield ""
    yield f"({_run(entry)}.)"


def _eye(path: Path) -> Iterator[str]:
    """A table with a line for each program that the driver's eye has watched."""
    measured = json.loads(path.read_text())
    entry, cost = measured["eye_bugs"], measured["eye_cost"]
    programs = dict.fromkeys(name.rpartition(", ")[0] for name in entry["races"])
    yield "| bug | the driver's eye | on the twin |"
    yield "|---|---|---|"
    for program in programs:
        cells = (_found(f"{program}, {kind}", entry) for kind in ("bug", "twin"))
        yield f"| {program.replace('_', ' ')} | {' | '.join(cells)} |"
    yield ""
    took = {name: f"{cost[name] / 1000:.1f} µs" for name in ("without", "with_lines", "without_lines")}
    yield (
        f"A launch of CuPy took {took['without']}, and {took['with_lines']} while the eye was open; without lines of "
        f"Python, {took['without_lines']}. ({_run(entry)}.)"
    )


def _found(name: str, entry: dict[str, Any]) -> str:
    return "race" if entry["races"][name] else "unknown" if name in entry["unknown"] else "-"


def _doctor(path: Path) -> Iterator[str]:
    entry = json.loads(path.read_text())["doctor"]
    yield "```console"
    yield from entry["shown"].splitlines()
    yield "```"
    yield ""
    yield f"({_run(entry)}.)"


# -- the lines of docs/with.md ---------------------------------------------------------------------------------------


def _with(path: Path) -> Iterator[str]:
    """A count, and a table with a row for each library."""
    record = json.loads(path.read_text())
    rows = {name: _line(name, record) for name in LINES}
    counts = Counter(cells[0].partition(":")[0] for cells in rows.values())
    yield (
        f"{len(rows)} libraries: {counts['run']} run on a GPU, {counts['taken']} taken without a GPU, "
        f"{counts['not run']} not run."
    )
    yield ""
    yield "| library | line | control | version, where and when |"
    yield "|---|---|---|---|"
    for name, cells in rows.items():
        title = LINES[name].title
        heading = re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        yield f"| [{title}](#{heading}) |" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def _line(name: str, record: Mapping[str, Mapping[str, Any]]) -> tuple[str, str, str]:
    """What was run of the line of a library, how its control ended, and with which version."""
    run, taken = record["gpu"].get(name), record["no_gpu"].get(name)
    where = f"{taken}, without a GPU" if taken else ""
    if run:
        return "run", "failed", f"{run['version']}; {_run(run)}"
    if name in WHY_NOT:
        return f"not run: {WHY_NOT[name]}", "", where
    if taken:
        return "taken", "refused" if name in GIVE_NO_ADDRESS else "another address", where
    missing = "`make with`" if name in WITHOUT_A_GPU else "its test for a GPU"
    return f"not run: {missing} has not been run", "", ""


SECTIONS: Final[dict[str, tuple[str, str, Callable[[Path], Iterable[str]]]]] = {
    "matrix-summary": ("tests/gpu/matrix.json", "make gpu-test", _matrix_summary),
    "matrix": ("tests/gpu/matrix.json", "make gpu-test", _matrix),
    "speed": (_BENCHMARKS, "make bench", _speed),
    "benchmarks": (_BENCHMARKS, "make bench", _benchmarks),
    "gpu-suite": ("tests/gpu/last_run.json", "make gpu-test", _gpu_suite),
    "bugs": ("tests/gpu/measured.json#bugs", "make gpu-test", _bugs),
    "eye": ("tests/gpu/measured.json#eye_bugs", "make gpu-test", _eye),
    "versions": ("tests/gpu/last_run.json", "make gpu-test", _versions),
    "with": ("tests/gpu/with.json", "make gpu-test", _with),
    "doctor": ("tests/gpu/measured.json#doctor", "make gpu-test", _doctor),
}
"""For each section: its file and the entry in it, the command that writes the file, and the function for the lines."""


def main() -> None:
    """Write the sections of all pages."""
    for page in PAGES:
        page.write_text(updated(page.read_text()))


if __name__ == "__main__":
    main()
