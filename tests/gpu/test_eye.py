"""The driver's eye on a GPU: programs that declare nothing, in processes that the eye sees from the start."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import interop
from tests.gpu.record import measured

ROOT = Path(__file__).parents[2]


def python(*arguments, **environment):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **environment}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode in (0, 1), done.stderr
    return done


def result(code, **environment):
    return json.loads(python("-W", "ignore", "-c", code, **environment).stdout.splitlines()[-1])


BUGS = """
import json
import interop

def run(bug, fixed):
    lab = bugs.Lab(fixed=fixed)
    bug(lab)
    lab.ready()

found = {}
with interop.ordering.check(eye="driver", raises=False):  # the kernels that it sees being loaded are known later
    import torch
    from tests.gpu import bugs, reported_bugs
    programs = bugs.BUGS + reported_bugs.BUGS
    if torch.cuda.device_count() < 2:
        programs = [bug for bug in programs if bug.__name__ != "event_on_the_wrong_device"]
    for bug in programs:
        run(bug, True)
for bug in programs:
    for kind in ("bug", "twin"):
        with interop.ordering.check(eye="driver", raises=False) as ledger:
            run(bug, kind == "twin")
        found[f"{bug.__name__}, {kind}"] = [len(ledger.races), len(ledger.unknown), str(ledger)]
print(json.dumps(found))
"""


def test_every_bug_is_found_without_a_declaration_and_no_twin_is_reported(interop_need):
    for library in ("cupy", "numba", "torch", "cuda.core"):
        interop_need(library)
    started = time.monotonic()
    found = result(BUGS)
    seconds = time.monotonic() - started
    assert len(found) >= 42
    missed = {name: said for name, (races, _, said) in found.items() if (races > 0) is not name.endswith("bug")}
    assert not missed, "\n".join(f"{name}: {said}" for name, said in missed.items())
    unsure = [name for name, (_, unknown, _) in found.items() if unknown]
    assert not [name for name in unsure if name.endswith("twin")], unsure
    races = {name: races for name, (races, _, _) in found.items()}
    measured("eye_bugs", races=races, unknown=unsure, seconds=round(seconds, 1))


PROGRAM = """
import cupy
import torch

x = cupy.zeros(1 << 20, dtype=cupy.float32)
y = torch.empty(1 << 20, device="cuda")
cupy.cuda.Device().synchronize()
loads = cupy.cuda.Stream(non_blocking=True)
with loads:
    x += 1
torch.cuda.default_stream().wait_stream(torch.cuda.ExternalStream(loads.ptr))
y.copy_(torch.as_tensor(x, device="cuda"))
torch.cuda.synchronize()
"""
FORGOTTEN = "\n".join(line for line in PROGRAM.splitlines() if "wait_stream" not in line)


@pytest.mark.parametrize("text", [FORGOTTEN, PROGRAM], ids=["bug", "twin"])
def test_an_unmodified_program(tmp_path, text, interop_need):
    interop_need("cupy", "torch")
    path = tmp_path / "program.py"
    path.write_text(text)
    done = python("-m", "interop", "check", "--json", str(path))
    found = json.loads(done.stdout)
    assert found["eye"] == "driver"
    assert (len(found["races"]), done.returncode) == ((1, 1) if text == FORGOTTEN else (0, 0)), found
    if text == FORGOTTEN:
        places = [found["races"][0][party]["where"] for party in ("earlier", "later")]
        lines = [
            text.splitlines().index(line) + 1 for line in ("    x += 1", 'y.copy_(torch.as_tensor(x, device="cuda"))')
        ]
        assert places == [f"{path}:{line}" for line in lines]


THREADS = """
import collections, gc, json, threading
from interop.ledger.driver.recorder import Recorder
recorder = Recorder()
recorder.open()
import cupy
streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(8)]
arrays = [cupy.ones(64) for _ in range(8)]
arrays[0] += 1
cupy.cuda.Device().synchronize()
before = sum(1 for _ in recorder.calls())

def work(number):
    with streams[number]:
        for i in range(12500):
            arrays[number] += 1
            if i % 500 == 0:
                cupy.empty(1 << 12)
                gc.collect(0)
    streams[number].synchronize()

threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
for thread in threads:
    thread.start()
counts, lines = collections.Counter(), set()
def count():
    for call in recorder.calls():
        if call.kind == "launch":
            counts[call.stream] += 1
            lines.add(call.place[0][0].co_name if call.place else "")
while any(thread.is_alive() for thread in threads):
    count()
recorder.close()
count()
print(json.dumps([sorted(counts.values()), recorder.lost, sorted(lines), sorted(map(float, (a[0] for a in arrays)))]))
"""


def test_many_threads_lose_nothing(interop_need):
    interop_need("cupy")
    counts, lost, lines, values = result(THREADS)
    assert counts[-8:] == [12500] * 8
    assert lost == 0
    assert "work" in lines
    assert values == [12501.0] * 7 + [12502.0]


ENDS = """
import os, sys
import interop
watch = interop.ordering.check(eye="driver", raises=False)
watch.__enter__()
import cupy
cupy.ones(10).sum()
"""


FORK = """
child = os.fork()
if not child:
    sys.exit(5)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("os._exit(4)", 4),
        ("1 / 0", 1),
        (FORK, 5),
    ],
    ids=["end", "exit", "_exit", "error", "fork"],
)
def test_a_process_ends_as_it_would_without(end, status, interop_need):
    interop_need("cupy")
    command = [sys.executable, "-W", "ignore", "-c", ENDS + end]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == status, done.stderr


PROFILED = """
import json
import interop
import torch
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]):
    torch.zeros(1, device="cuda").add_(1)
    torch.cuda.synchronize()
try:
    with interop.ordering.check(eye="driver", raises=False) as ledger:
        eye = ledger.eye
except interop.NotSupportedError as shut:
    eye = str(shut)
with interop.ordering.check(raises=False) as ledger:
    print(json.dumps([eye, ledger.eye]))
"""


def test_the_eye_stays_shut_after_torch_profiler_and_says_so(interop_need):
    interop_need("torch")
    eye, by_default = result(PROFILED)
    assert eye == "driver" or "TEARDOWN_CUPTI=1" in eye
    assert by_default.startswith("libraries: the driver's eye stays shut: CUDA was in use before the block")


ONLY_ON = """
import json
import interop
import cupy, torch
from numba import cuda
stream = interop.new_stream()
x, y = cupy.ones(100), torch.ones(100, device="cuda")

def work(where):
    with where:
        globals()["x"] += 1
        y.mul_(2)

work(interop.use(stream))
with interop.testing.assert_only_on(stream):
    work(interop.use(stream))
try:
    with interop.testing.assert_only_on(stream):
        work(interop.use(stream, "cupy"))
except AssertionError as error:
    print(json.dumps(str(error)))
"""


def test_assert_only_on_names_the_library_that_works_elsewhere(interop_need):
    interop_need("cupy", "torch", "numba")
    said = result(ONLY_ON)
    assert "on the legacy default stream" in said
    assert "MulFunctor" in said or "mul" in said.lower()
    assert "cupy" not in said.partition("\n")[2]


COST = """
import json, statistics, sys, time
import interop
import cupy
x, stream = cupy.ones(64, cupy.float32), cupy.cuda.Stream(non_blocking=True)

def once():
    with stream:
        started = time.perf_counter_ns()
        for _ in range(400):
            x.__iadd__(1)
        took = (time.perf_counter_ns() - started) / 400
    stream.synchronize()
    return took

def median():
    return statistics.median(once() for _ in range(40))

from interop._native import native
from interop.ledger.driver.recorder import Recorder
median()
rows = {"without": [], "with lines": [], "without lines": []}
for _ in range(3):
    rows["without"].append(median())
    recorder = Recorder()
    recorder.open()
    rows["with lines"].append(median())
    native.frames_open(sys._getframe(), False)
    rows["without lines"].append(median())
    recorder.close()
print(json.dumps({name: min(values) for name, values in rows.items()}))
"""


def test_the_cost_of_a_launch(interop_need):
    interop_need("cupy")
    times = result(COST)
    measured("eye_cost", **{name.replace(" ", "_"): round(value) for name, value in times.items()})
    assert times["with lines"] < 1.3 * times["without"] + 500


def test_a_ledger_by_default_has_the_best_eye(interop_need):
    with interop.ordering.check(raises=False) as ledger:
        pass
    assert ledger.eye == "driver" or ledger.eye.startswith("libraries: the driver's eye stays shut")
