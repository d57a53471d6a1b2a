"""What the ledger costs, closed and open: ``python -m benchmarks ledger``. Needs no GPU, and says nothing about one.

Closed, a call looks whether somebody is to be told: at a flag in C, at a tuple that is empty in Python. What that costs
is seen beside the same sources without the look. Instructions are counted around CUDA calls that do nothing; times are
those of a simulation, where a call is all Python.
"""

import contextlib
import json
import platform
import shutil
import subprocess
import sysconfig
import tempfile
import time
import timeit
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import interop
from benchmarks import instructions
from benchmarks.baseline import compiler
from benchmarks.process import NATIVE, PYTHON, processor
from interop.ordering import check
from interop.sim import simulate
from tests.gpu.record import interop_sha256

RECORD: Final = Path(__file__).with_suffix(".json")
CALLS: Final = tuple(call for call in instructions.CALLS if call != "as_stream, of one of ours")
"""Those that a ledger is told of."""
CLOSED, WITHOUT, OPEN = "closed", "without the look", "open"
TIMES: Final = "nanoseconds on the simulator"

_ROOT: Final = Path(__file__).parents[1]


def _loop(told: str, indent: int) -> tuple[str, str]:
    return f"for watcher in _watch.watchers:\n{' ' * indent}watcher.{told}\n", "pass\n"


LOOKS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "_native/order.c": (
        ("    if (watched) {\n        return 0;\n    }\n", ""),
        ("stands_for_work(event) && !watched)", "stands_for_work(event))"),
    ),
    "_native/methods.c": (("if (names != NULL || watched) {", "if (names != NULL) {"),),
    "stream.py": (
        _loop("waited(self, event)", 12),
        _loop("joined(self, producer)", 16),
        _loop("recorded(self, event)", 12),
        _loop("finished(self)", 12),
    ),
    "event.py": (_loop("finished(self)", 12),),
}
"""Every look in the sources of the calls that are measured, and what is there without it."""


def without_looks(name: str, text: str) -> str:
    """The text of a source in LOOKS, without its looks.

    Raises:
        ValueError: one of them is not there, or more than once; or there are others.
    """
    for old, new in LOOKS[name]:
        if text.count(old) != 1:
            message = f"{name} has {text.count(old)} times, and not once: {old}"
            raise ValueError(message)
        text = text.replace(old, new)
    if "!watched" in text or "(watched)" in text or "|| watched" in text or "_watch.watchers" in text:
        message = f"{name} has more looks than are known here"
        raise ValueError(message)
    return text


def build(folder: Path, *, looks: bool) -> Path:
    """Copy interop and the benchmarks, and compile the extension there, so that Python started there takes those."""
    for package in ("interop", "benchmarks"):
        shutil.copytree(_ROOT / package, folder / package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    if not looks:
        for name in LOOKS:
            source = folder / "interop" / name
            source.write_text(without_looks(name, source.read_text()))
    command = [compiler(), "-O2", "-std=c11", "-shared", "-fPIC", f"-I{sysconfig.get_path('include')}"]  # as setup.py
    native = folder / "interop" / "_native"
    command += ["-fvisibility=hidden", *map(str, native.glob("*.c")), "-o", str(native / "_ext.abi3.so")]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def count() -> dict[str, dict[str, dict[str, int]]]:
    """The instructions of each of CALLS on each way: with the ledger closed, without the look, and with it open."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    with tempfile.TemporaryDirectory() as name:
        as_it_is, without = (build(Path(name) / str(looks), looks=looks) for looks in (True, False))
        for way, native in ((NATIVE, "1"), (PYTHON, "0")):
            environment = {"INTEROP_NATIVE": native}
            found = {
                CLOSED: instructions.count(environment, as_it_is),
                WITHOUT: instructions.count(environment, without),
                OPEN: instructions.count(environment, as_it_is, ledger=True),
            }
            counts[way] = {call: {state: round(of[call]) for state, of in found.items()} for call in CALLS}
    return counts


def times(number: int) -> dict[str, dict[str, float]]:
    """The nanoseconds of each of CALLS, closed and open, from so many calls each; on the GPU or simulation in use."""
    stream, producer = interop.new_stream(), interop.new_stream()
    names = {"stream": stream, "producer": producer, "event": producer.record_event()}
    producer.synchronize()
    calls = {call: timeit.Timer(instructions.CALLS[call], globals=names) for call in CALLS}
    states: tuple[tuple[str, Callable[[], contextlib.AbstractContextManager[object]]], ...] = (
        (CLOSED, contextlib.nullcontext),
        (OPEN, check),
    )
    found: dict[str, dict[str, float]] = {call: {} for call in CALLS}
    for state, context in states:
        with context():
            for call, timer in calls.items():
                # The best of several: what other processes do only ever adds.
                found[call][state] = round(min(timer.repeat(15, number)) / number * 1e9, 1)
    return found


def measure() -> dict[str, Any]:
    """All of it, and where."""
    version = subprocess.run([compiler(), "--version"], check=True, capture_output=True, text=True).stdout
    with simulate():
        simulated = times(200)
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": processor(),
        "python": platform.python_version(),
        "compiler": version.splitlines()[0],
        "interop_sha256": interop_sha256(),
        "instructions": count(),
        TIMES: simulated,
    }


def write(record: Mapping[str, Any]) -> None:
    """Write what was measured."""
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
