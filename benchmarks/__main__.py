"""The command: ``python -m benchmarks``."""

import argparse
import importlib.machinery
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

import interop
from benchmarks import compare, instructions, ledger, plot, report, startup
from benchmarks.measure import Measured
from benchmarks.process import FOLDER, NATIVE, PYTHON
from benchmarks.results import NotResultsError, Results, Spread

BATCHES, QUICK_BATCHES = 60, 12
REPEATS, QUICK_REPEATS = 3, 1
LONGEST = 480
"""Seconds that a measuring process may take."""

console = Console(highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (NotResultsError, compare.ComparisonError) as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What interop's calls cost.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="measure, on a GPU; write the results, the report and the picture")
    run.add_argument("--only", default="", metavar="TEXT", help="operations with this in `group: name`")
    run.add_argument("--quick", action="store_true", help="few batches: to see that everything runs")
    run.add_argument("--out", type=Path, help="default: results.json, or partial.json if not everything is measured")
    run.set_defaults(run=_run)
    again = commands.add_parser("report", help="make the report and the picture of results again; needs no GPU")
    again.add_argument("results", type=Path, nargs="?", default=FOLDER / "results.json")
    again.set_defaults(run=_report)
    comparison = commands.add_parser(
        "compare", help="exit status 1 if interop is slower in the second than in the first, 2 if that cannot be said"
    )
    comparison.add_argument("before", type=Path)
    comparison.add_argument("after", type=Path)
    comparison.add_argument("--tolerance", type=float, default=compare.TOLERANCE, help="default: %(default)s")
    comparison.add_argument(
        "--other-machine", action="store_true", help="even if the GPU, the CPU, Python or a library is another one"
    )
    comparison.set_defaults(run=_compare)
    count = commands.add_parser("instructions", help="count the instructions of interop's calls, without a GPU")
    count.set_defaults(run=_instructions)
    cost = commands.add_parser("ledger", help="what the ledger costs, without a GPU; write ledger.json")
    cost.add_argument("--gpu", action="store_true", help="times on a GPU instead; writes nothing")
    cost.set_defaults(run=_ledger)
    return parser


def has_native() -> bool:
    """Whether interop was built with its native module."""
    # Not importlib.util.find_spec: beside an editable install it finds the module of another checkout.
    package = Path(interop.__file__).parent
    return any((package / "_native" / f"_ext{suffix}").exists() for suffix in importlib.machinery.EXTENSION_SUFFIXES)


def _run(options: argparse.Namespace) -> int:
    results = Results(
        options={
            "batches": QUICK_BATCHES if options.quick else BATCHES,
            "only": options.only,
            "quick": options.quick,
        }
    )
    whole = not options.only and not options.quick
    out = options.out or FOLDER / ("results.json" if whole else "partial.json")
    native = has_native()
    results.rows, status = _process(results, options.only, native=native, ours_only=False)
    if not results.machine:
        return status
    if native:
        results.other, _ = _process(results, options.only, native=False, ours_only=True)
    if not options.only:
        repeats = QUICK_REPEATS if options.quick else REPEATS
        results.startup = startup.measure(repeats, _environment(native=native))
    results.write(out)
    _show(results, out)
    return 1 if results.problems else 0


def _environment(*, native: bool) -> dict[str, str]:
    return {"INTEROP_NATIVE": str(int(native))}


def _process(results: Results, only: str, *, native: bool, ours_only: bool) -> tuple[list[Measured], int]:
    """Measure in a new process; what it wrote counts, even if it did not come to its end."""
    path = NATIVE if native else PYTHON
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "lines.json"
        command = [sys.executable, "-m", "benchmarks.process", str(lines), "--only", only]
        command += ["--batches", str(results.options["batches"]), *(["--ours-only"] if ours_only else [])]
        environment = {**os.environ, **_environment(native=native)}
        try:
            status = subprocess.run(command, env=environment, timeout=LONGEST, check=False).returncode
        except subprocess.TimeoutExpired:
            status = -1
        written = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    rows, ended = [], False
    for line in written:
        kind = line.pop("kind")
        if kind == "row":
            rows.append(Measured(**line))
        elif kind == "machine":
            results.machine = {**line, **results.machine}
        elif ours_only:
            ended = line["path"] == path
        else:
            ended = line["path"] == path
            results.path = line.pop("path")
            results.machine.update(line)
    if written and not ended:
        results.problems.append(f"the process that goes the {path} way ended early, or went another way: {status=}")
        results.path = results.path or path
    return rows, status


def _report(options: argparse.Namespace) -> int:
    _show(Results.read(options.results), options.results)
    return 0


def _show(results: Results, path: Path) -> None:
    lines = list(report.report(results))
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    plot.draw(results, path.with_suffix(".svg"))
    console.print("\n".join(lines), markup=False)


def _compare(options: argparse.Namespace) -> int:
    if not 0 <= options.tolerance < math.inf:
        message = f"--tolerance {options.tolerance}: give 0 or a positive number, such as {compare.TOLERANCE}"
        raise compare.ComparisonError(message)
    before, after = Results.read(options.before), Results.read(options.after)
    others = compare.differences(before, after)
    if others and not options.other_machine:
        message = (
            f"{options.before} and {options.after} are not alike: {'; '.join(others)}. --other-machine: all the same"
        )
        raise compare.ComparisonError(message)
    changes = compare.compare(before, after, options.tolerance)
    compared = [change for change in changes if change.before]
    if not compared:
        message = f"{options.before} has nothing of interop's to compare: name the file of a whole run of `make bench`"
        raise compare.ComparisonError(message)
    for difference in others:
        console.print(f"note: {difference}")
    title = "interop, as a ratio to what was measured beside it; imports and first calls in milliseconds"
    table = RichTable(title, "before", "after", "")
    for change in changes:
        table.add_row(change.name, _shown(change.before), _shown(change.after), change.problem)
    console.print(table)
    slower = sum(bool(change.problem) for change in compared)
    console.print(f"{slower} of {len(compared)} are slower by more than {options.tolerance:.0%}, or missing")
    console.print(f"{len(changes) - len(compared)} are not compared: nothing was measured beside them before")
    return 1 if slower else 0


def _shown(found: Spread | None) -> str:
    return "" if found is None else f"{found.median:.4g} ({found.low:.4g}-{found.high:.4g})"


def _instructions(_options: argparse.Namespace) -> int:
    for native in (True, False) if has_native() else (False,):
        table = RichTable("instructions a call", "", title=f"interop, the {NATIVE if native else PYTHON} way")
        for name, count in instructions.count(_environment(native=native)).items():
            table.add_row(name, f"{count:,.0f}")
        console.print(table)
    return 0


def _ledger(options: argparse.Namespace) -> int:
    if options.gpu:
        measured = {"nanoseconds": ledger.times(2000)}
    else:
        record = ledger.measure()
        ledger.write(record)
        measured = {f"instructions, the {way} way": counts for way, counts in record["instructions"].items()}
        measured[ledger.TIMES] = record[ledger.TIMES]
    for title, calls in measured.items():
        states = list(next(iter(calls.values())))
        table = RichTable("ledger", *states, title=title)
        for call, found in calls.items():
            table.add_row(call, *(f"{found[state]:,.0f}" for state in states))
        console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
