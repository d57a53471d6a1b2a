"""The process that measures: ``python -m benchmarks.process OUT``. It writes each result at once, as a line of JSON.

A library that crashes ends only this process. The command starts another process for the rest.
"""

import argparse
import faulthandler
import functools
import json
import platform
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final, TextIO

from benchmarks import handovers, left, operations, pingpong
from benchmarks.lab import Lab
from benchmarks.left import Left
from benchmarks.measure import Measured, Operation, measure
from interop._show.progress import progress
from tests.gpu.record import described_run, interop_sha256

LONGEST_OPERATION: Final = 90
"""The most seconds for an operation and the imports of its libraries. After that, the process ends with tracebacks."""

LEFT: Final = "left behind"

Job = Callable[[float], list[Measured] | list[Left]]
"""A function of the seconds that are left, which measures something. Only jobs of :data:`LEFT` use the seconds."""


def jobs(lab: Lab, *, batches: int, count: int, python: bool) -> Iterator[tuple[str, Job]]:
    """The names and functions of all that is measured.

    Args:
        lab: makes the streams and arrays.
        batches: how many batches of each row.
        count: how many hand-overs for :data:`LEFT`.
        python: only interop's rows and those in C beside them.
    """

    def job(operation: Operation, _seconds: float) -> list[Measured]:
        return measure(operation, batches, lab.drain)

    for operation in operations.all_operations(lab):
        rows = operation.rows[:2] if python else operation.rows
        yield operation.name, functools.partial(job, replace(operation, rows=rows))
    if python:
        return
    for operation in (*handovers.all_operations(lab), *pingpong.all_operations(lab), *handovers.into_jax(lab)):
        yield operation.name, functools.partial(job, operation)
    for number, (source, target) in enumerate(handovers.WAYS):
        share = 1 / (len(handovers.WAYS) - number)

        def look(seconds: float, source: str = source, target: str = target, share: float = share) -> list[Left]:
            return [left.left_behind(lab, source, target, count, seconds * share)]

        yield f"{LEFT}, {source} to {target}", look


def run(out: TextIO, todo: Sequence[tuple[str, Job]], skip: int, seconds: float) -> None:
    """Run the jobs after the first *skip*, and write what they measure."""

    def write(kind: str, **content: object) -> None:
        out.write(json.dumps({"kind": kind, **content}) + "\n")
        out.flush()

    deadline = time.monotonic() + seconds
    write("machine", **described_machine())
    for number, (name, job) in progress([*enumerate(todo)][skip:], "measuring"):
        write("begin", number=number, name=name)
        remaining = deadline - time.monotonic()
        if remaining < 0:
            write("problem", text=f"{name}: no time was left")
            continue
        longest = LONGEST_OPERATION + (remaining if name.startswith(LEFT) else 0)
        faulthandler.dump_traceback_later(longest, exit=True)
        for measured in job(remaining):
            write("left" if isinstance(measured, Left) else "row", **asdict(measured))
        faulthandler.cancel_dump_traceback_later()
    write("end", extension=extension_in_use())


def extension_in_use() -> bool:
    """Whether interop has loaded its extension in C."""
    files = [getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith("interop.")]
    return any(file and file.endswith(".so") for file in files)


def described_machine() -> dict[str, object]:
    """The description in the GPU suite's record, with the processor and the hash of the code; empty without a GPU."""
    found = described_run()
    path = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", path.read_text()) if path.exists() else None
    cpu = model[1] if model else platform.processor()
    return found and {**found, "cpu": cpu, "python": platform.python_version(), "interop_sha256": interop_sha256()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.process", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="")
    for name in ("--batches", "--count", "--skip"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--python", action="store_true")
    options = parser.parse_args(arguments)
    if not described_run():
        print("the benchmarks need a GPU", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")  # a library's warning would be printed in the middle of a batch
    with tempfile.TemporaryDirectory() as folder, options.out.open("w") as out:
        every = jobs(Lab(Path(folder)), batches=options.batches, count=options.count, python=options.python)
        todo = [(name, job) for name, job in every if options.only.lower() in name.lower()]
        run(out, todo, options.skip, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
