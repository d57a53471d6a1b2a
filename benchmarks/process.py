"""What one process measures: ``python -m benchmarks.process OUT``, a JSON object a line, each written at once.

In a process of its own, because whether interop uses its native module is decided when it is imported, and so that a
library that crashes takes with it only what comes after.
"""

import argparse
import dataclasses
import faulthandler
import json
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TextIO

from benchmarks import growth, pingpong
from benchmarks.lab import Lab
from benchmarks.measure import Operation, measure
from benchmarks.operations import OURS, Calls
from tests.gpu.record import described_run, interop_sha256, sources_sha256

FOLDER: Final = Path(__file__).parent
LONGEST_OPERATION: Final = 90
"""Seconds; then the process ends, with the tracebacks of its threads."""

NATIVE, PYTHON = "native", "Python"


def path_in_use() -> str:
    """Whether interop calls CUDA through its native module, or through cuda.bindings."""
    return NATIVE if "interop._native._ext" in sys.modules else PYTHON


def described_machine() -> dict[str, object]:
    """As of the GPU tests' record, and the processor; nothing without a GPU."""
    run = described_run()
    return run and {**run, "cpu": processor(), "python": platform.python_version()}


_WRITERS: Final = ("compare.py", "missed.py", "plot.py", "report.py")
"""What only says what was measured."""


def benchmarks_sha256() -> str:
    """Of the code that measures, as :func:`~tests.gpu.record.interop_sha256` is of interop's."""
    return sources_sha256(path for path in FOLDER.iterdir() if path.name not in _WRITERS)


def processor() -> str:
    """Its name."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", path.read_text()) if path.exists() else None
    return found[1] if found else platform.processor()


def selected(operations: Sequence[Operation], only: str, *, ours_only: bool) -> Iterator[Operation]:
    """Those whose name has *only* in it; of the rows, all, or interop's and the one they are compared with."""
    for operation in operations:
        if only.lower() not in f"{operation.group}: {operation.name}".lower():
            continue
        rows = [row for row in operation.rows[1:] if not ours_only or row.label.startswith(OURS)]
        yield dataclasses.replace(operation, rows=[operation.rows[0], *rows])


def run(out: TextIO, *, batches: int, only: str, ours_only: bool) -> None:
    """Measure, and write."""

    def write(kind: str, **content: object) -> None:
        out.write(json.dumps({"kind": kind, **content}) + "\n")
        out.flush()

    write("machine", **described_machine())
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder))
        operations = [*Calls(lab).all(), *pingpong.all_operations(lab), *growth.all_operations(lab)]
        for operation in selected(operations, only, ours_only=ours_only):
            faulthandler.dump_traceback_later(LONGEST_OPERATION, exit=True)
            for measured in measure(operation, batches, lab.drain):
                write("row", **dataclasses.asdict(measured))
            faulthandler.cancel_dump_traceback_later()
        code = {"interop_sha256": interop_sha256(), "benchmarks_sha256": benchmarks_sha256()}
        write("end", path=path_in_use(), cudart=lab.cudart, **code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.process", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--batches", type=int, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--ours-only", action="store_true")
    options = parser.parse_args(arguments)
    if not described_run():
        print("the benchmarks need a GPU; without one there is `python -m benchmarks instructions`", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")  # what libraries warn of would be printed in the middle of a batch
    with options.out.open("w") as out:
        run(out, batches=options.batches, only=options.only, ours_only=options.ours_only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
