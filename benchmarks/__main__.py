"""The command: ``python -m benchmarks``."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import left, plot, report
from benchmarks.left import Left
from benchmarks.measure import Measured
from benchmarks.results import Results

FOLDER: Final = Path(__file__).parent
BATCHES, QUICK_BATCHES = 60, 12
QUICK_COUNT: Final = 10_000
LONGEST: Final = 350
"""The most seconds that a whole run takes."""
PYTHON: Final = 60
"""How many of these seconds are kept for interop without the extension."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command. Returns the exit status: 1 if something could not be measured, 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What interop's calls cost, on a GPU.")
    parser.add_argument("--only", default="", metavar="PATTERN", help="what has this in its name")
    parser.add_argument("--quick", action="store_true", help="few batches: to see that everything runs")
    parser.add_argument("--out", type=Path, help="default: results.json, or partial.json if not everything is measured")
    parser.add_argument("--report", action="store_true", help="only make the table and the plot of results again")
    options = parser.parse_args(arguments)
    whole = not options.only and not options.quick
    out = options.out or FOLDER / ("results.json" if whole or options.report else "partial.json")
    if out.suffix != ".json" or not out.parent.is_dir():
        parser.error(f"--out is the name of a file that ends in .json, in a folder that is there; got {str(out)!r}")
    if options.report:
        results = Results.read(out)
    else:
        results = Results(options={"batches": QUICK_BATCHES if options.quick else BATCHES, "only": options.only})
        results.options["count"] = QUICK_COUNT if options.quick else left.COUNT
        end = time.monotonic() + LONGEST
        _measure(results, end - PYTHON, python=False)
        if not results.machine:
            return 2
        if results.machine.get("extension"):
            _measure(results, end, python=True)
        results.write(out)
    lines = "\n".join(report.report(results))
    out.with_suffix(".md").write_text(lines + "\n")
    plot.draw(results, out.with_suffix(".svg"))
    print(lines)
    return 1 if results.problems else 0


def _measure(results: Results, end: float, *, python: bool) -> None:
    """Measure in a process of its own. If the process crashes, measure what remains in another process."""
    skip = 0
    while True:
        lines, status = _process(results.options, skip, end - time.monotonic(), python=python)
        begun: dict[str, Any] = {}
        for line in lines:
            kind = line.pop("kind")
            if kind == "begin":
                begun = line
            elif kind == "problem":
                results.problems.append(line["text"])
            elif kind == "left":
                results.left.append(Left(**line))
            elif kind == "row":
                (results.python if python else results.rows).append(Measured(**line))
            elif kind == "machine":
                results.machine = {**line, **results.machine}
            else:
                results.machine.setdefault("extension", line["extension"])
                return
        if lines:
            name = begun.get("name", "at its start")
            which = " without the extension" if python else ""
            results.problems.append(f"{name}: the process{which} ended, with status {status}")
        if not begun or time.monotonic() > end:
            return
        skip = begun["number"] + 1


def _process(
    options: dict[str, Any], skip: int, seconds: float, *, python: bool
) -> tuple[list[dict[str, Any]], int | None]:
    """The lines that one process wrote, and its exit status: None if its time was over."""
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if python:
        environment["INTEROP_NATIVE"] = "0"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lines"
        command = [sys.executable, "-m", "benchmarks.process", str(out), "--only", options["only"]]
        command += ["--batches", str(options["batches"]), "--count", str(options["count"]), "--skip", str(skip)]
        command += ["--seconds", str(max(seconds - 15, 1)), *(["--python"] if python else [])]
        try:
            status = subprocess.run(command, env=environment, timeout=max(seconds, 1), check=False).returncode
        except subprocess.TimeoutExpired:
            status = None
        return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else [], status


if __name__ == "__main__":
    sys.exit(main())
