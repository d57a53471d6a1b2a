"""A forked child: its locks are free, its calls on inherited objects fail at once, and it exits by itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import interop

CHILDREN = int(os.environ.get("CHILDREN", "20"))
"""How many children are forked while threads are busy. More of them find the threads in more states."""

PREPARED = """
import importlib.util, os, sys, threading, time
import interop
from interop.errors import CudaError, InteropError
from tests import native_stubs
driver = native_stubs.Driver(sys.argv[1])
with native_stubs.bound(driver) as cuda:
    world = native_stubs.World(driver, cuda)
p, q = world.p, world.q
interop._cuda.GPU = cuda
interop._cuda.activate(cuda)

def children(count, body, limit):
    '''Fork *count* children, which run *body* and exit with status 7; returns (status, seconds) of each.'''
    found = []
    for _ in range(count):
        began = time.monotonic()
        child = os.fork()
        if not child:
            body()
            sys.exit(7)
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() - began > limit:
                os.kill(child, 9)
            time.sleep(0.0005)
        found.append((ended[1], time.monotonic() - began))
    return found
"""


@pytest.fixture
def run(driver):
    def run(code: str, *, native: str = "") -> str:
        path = os.pathsep.join([str(Path(interop.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-c", PREPARED + code, driver.library._name],
            env={**os.environ, "PYTHONPATH": path, "INTEROP_NATIVE": native},
            capture_output=True,
            text=True,
            timeout=100 + 2 * CHILDREN,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


CALLS = """
calls = {
    "query": p.query,
    "synchronize": p.synchronize,
    "synchronize for a time": lambda: p.synchronize(1),
    "record": p.record_event,
    "record again": lambda: p.record_event(world.event),
    "wait_event": lambda: p.wait_event(world.event),
    "wait_stream": lambda: p.wait_stream(q),
    "wait for an object of a library": lambda: p.wait_stream(world.stating),
    "wait for a library's event": lambda: p.wait_event(world.foreign),
    "the legacy stream": lambda: p.wait_stream(world.legacy),
    "is_capturing": p.is_capturing,
    "stream_id": lambda: p.stream_id,
    **({"to": lambda: p.to("cupy")} if importlib.util.find_spec("cupy") else {}),
    "with": lambda: p.__enter__(),
    "use": lambda: interop.use(p).__enter__(),
    "event": lambda: world.event.query(),
    "event synchronize": lambda: world.event.synchronize(),
    "new event": lambda: interop.Event().record(p),
    "new_stream": interop.new_stream,
    "hold": lambda: interop.hold(p, object()) or interop.release() or p.query(),
}
def body():
    assert not driver.plain.clear()
    before = len(driver.calls)
    for name, call in calls.items():
        try:
            call()
        except CudaError as error:
            assert "spawn" in str(error), name
        else:
            print(name, "raised nothing")
    if driver.plain or len(driver.calls) > before:
        print("the driver was called", driver.plain, [call.name for call in driver.calls[before:]])
"""


@pytest.mark.parametrize("native", ["", "0"])
def test_every_call_on_inherited_objects_fails_at_once(run, native):
    assert run(CALLS + "print(children(1, body, 20)[0][0] >> 8)", native=native) == "7\n"


def test_a_watcher_in_the_child_does_not_restore_the_fast_path(run):
    code = """
from interop._order import watchers
def again():
    watcher = watchers.Watcher()
    watchers.watch(watcher)
    watchers.unwatch(watcher)
    body()
print(children(1, again, 20)[0][0] >> 8)
"""
    assert run(CALLS + code) == "7\n"


def test_control_calls_in_the_parent_still_work(run):
    code = """
children(1, body, 20)
p.wait_stream(q)
p.query()
print("fine")
"""
    assert run(CALLS + code) == "fine\n"


def test_a_child_may_leave_a_block_that_its_parent_entered(run):
    code = """
with interop.use(p):
    status = children(1, lambda: None, 20)[0][0]
print(status >> 8)
"""
    assert run(code) == "7\n"


def test_a_child_may_start_cuda_if_its_parent_has_not(run):
    code = """
fresh = interop._cuda.Cuda(cuda.load, cuda.readable)
interop._cuda.activate(fresh)
def body():
    assert interop.ExternalStream(native_stubs.P).query()
print(children(1, body, 20)[0][0] >> 8)
"""
    assert run(code) == "7\n"


def test_locks_that_other_threads_hold_are_free_in_the_child(run):
    code = """
import interop.arrays, interop.ledger, interop.timeline, interop.testing
from interop._safety import forks
def hold(lock, taken):
    with lock:
        taken.set()
        time.sleep(60)
locks = list(forks._locks)
for lock in locks:
    taken = threading.Event()
    threading.Thread(target=hold, args=(lock, taken), daemon=True).start()
    taken.wait()
    assert not lock.acquire(blocking=False)
def body():
    for lock in locks:
        with lock:
            pass
print(len(locks) > 2, children(1, body, 20)[0][0] >> 8)
"""
    assert run(code) == "True 7\n"


def test_in_child_calls_the_function_of_a_living_owner(run):
    code = """
from interop._safety import forks
class Owner:
    def forked(self):
        self.is_told = True
owner = Owner()
forks.in_child(owner, Owner.forked)
gone = Owner()
forks.in_child(gone, lambda _: print("of an owner that is gone"))
del gone
def body():
    assert owner.is_told
print(children(1, body, 20)[0][0] >> 8, hasattr(owner, "is_told"))
"""
    assert run(code) == "7 False\n"


@pytest.mark.timeout(120 + 3 * CHILDREN)
def test_children_exit_at_once_even_if_threads_were_busy(run):
    code = """
import types
from tests.arrays.test_exchange import Array, Library
class OnTheGpu(Library):
    simulated = False
sys.modules["standin"] = types.ModuleType("standin")
interop.register("standin", OnTheGpu())
array = Array()
def hand_over():
    view = interop.handoff(array, q, producer=p)
    del view
def keep():
    interop.hold(q, object())
    interop.release()
def ledger():
    with interop.ordering.check():
        p.wait_stream(q)
works = {
    "wait_stream": lambda: p.wait_stream(q),
    "record": lambda: interop.Event().record(p),
    "hand over": hand_over,
    "keep": keep,
    "ledger": ledger,
    "libraries": interop.adapters.known,
}
import interop.ordering
sys.setswitchinterval(1e-4)
for work in works.values():
    work()
def busy(work):
    while True:
        work()
        driver.reset()
        time.sleep(1e-4)
for work in works.values():
    threading.Thread(target=busy, args=(work,), daemon=True).start()
def body():
    interop.adapters.known()
    assert interop.release() == 0
    for name in ("wait_stream", "record", "hand over", "ledger"):
        try:
            works[name]()
        except InteropError:
            pass
        else:
            print(name, "raised nothing")
found = children(CHILDREN, body, 20)
print(sum(status != 7 << 8 for status, _ in found))
print("the slowest took", max(seconds for _, seconds in found), "s", file=sys.stderr)
"""
    assert run(f"CHILDREN = {CHILDREN}\n{code}") == "0\n"


def test_a_thread_may_fork_while_it_holds_a_lock(run):
    code = """
from interop._safety import forks
lock = forks.lock()
with lock:
    status = children(1, lambda: None, 20)[0][0]
print(status >> 8)
"""
    assert run(code) == "7\n"


SIMULATED = """
import gc
from interop import sim
simulation = sim.simulate()
gpu = simulation.__enter__()
stream, array = interop.new_stream(), gpu.array([0])
def body():
    assert gc.isenabled()
    try:
        stream.wait_stream(interop.new_stream())
        gpu.launch(stream, lambda memory: memory.fill(1), writes=[array])
        stream.synchronize()
        print(gpu.read(array))
    except InteropError as error:
        print(error)
"""


def test_a_simulation_goes_on_in_the_child(run):
    assert run(SIMULATED + "print(children(1, body, 20)[0][0] >> 8)") == "[1]\n7\n"


def test_a_simulation_is_over_in_the_child_if_another_thread_was_in_it(run):
    code = """
inside = threading.Event()
def stay():
    inside.set()
    time.sleep(60)
threading.Thread(target=gpu._machine.alone, args=(stay,), daemon=True).start()
inside.wait()
print(children(1, body, 20)[0][0] >> 8)
"""
    assert "this simulation has ended" in run(SIMULATED + code)
