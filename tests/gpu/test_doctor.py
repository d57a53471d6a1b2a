"""``interop.doctor()`` and the reprs on a GPU: they find what is there, and change nothing."""

import json
import os
import subprocess
import sys

import pytest

import interop
from interop._core.inspection import look_at
from interop.testing import gate
from tests.gpu.lab import STREAMS, call, native_stream, on_device, runtime
from tests.gpu.record import measured

# contexts() says which primary contexts exist, and whether a context is current. It creates none.
CONTEXTS = """
import json, sys
from cuda.bindings import driver, runtime
count = runtime.cudaGetDeviceCount()[1]
def contexts():
    states = [driver.cuDevicePrimaryCtxGetState(device)[2] for device in range(count)]
    return [int(bool(state)) for state in states] + [int(driver.cuCtxGetCurrent()[1]) != 0]
"""


def run(code, *options, **environment):
    command = [sys.executable, *options] if code is None else [sys.executable, "-W", "ignore", "-c", code, *options]
    environment = {**os.environ, "COLUMNS": "160", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)


def result(code, **environment):
    done = run(CONTEXTS + code, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def warnings(found):
    return [advice.what for advice in found.advice if advice.kind == "warning"]


def named(found, name):
    return next(library for library in found.libraries if library.name == name)


def test_doctor_creates_no_context():
    code = """
import interop
found = interop.doctor()
found._repr_html_(), repr(found), found.to_dict()
print(json.dumps([contexts(), len(found.machine.gpus), [gpu.has_context for gpu in found.machine.gpus]]))
"""
    contexts, gpus, seen = result(code)
    assert not any(contexts)
    assert gpus == len(seen) == len(contexts) - 1
    assert not any(seen)


def test_control_a_stream_creates_a_context():
    code = "import interop; stream = interop.new_stream(); print(json.dumps(contexts()))"
    assert result(code)[0] == 1


@pytest.mark.parametrize(
    "library", ["cupy", "torch", "warp", "numba", "numba_cuda_mlir", "rmm", "cuda.core", "tvm_ffi"]
)
def test_doctor_creates_no_context_for_an_imported_library(library, interop_need):
    interop_need(library)
    code = f"""
import importlib
importlib.import_module({library!r})
before = contexts()
import interop
found = interop.doctor()
print(json.dumps([before, contexts(), [l.current is None for l in found.libraries if l.name == {library!r}]]))
"""
    before, after, no_current = result(code)
    assert before == after
    assert any(after) or no_current == [True]


STARTED = {
    "torch": "torch.cuda.is_initialized()",
    "warp": 'getattr(sys.modules["warp._src.context"], "runtime", None) is not None',
}


@pytest.mark.parametrize("library", STARTED)
def test_doctor_initialises_no_library(library, interop_need):
    interop_need(library)
    code = f"""
import interop, {library}
if {library!r} == "warp":
    warp.config.quiet = True
stream = interop.new_stream()
def started():
    return {STARTED[library]}
before = started()
found = interop.doctor()
remarks = {{library.name: library.remark for library in found.libraries}}
plain = started()
interop.doctor(probe=True)
print(json.dumps([before, plain, remarks[{library!r}], started()]))
"""
    before, plain, remark, probed = result(code)
    assert before is plain is False
    assert remark == "not asked: it has not used the GPU yet"
    assert probed is True


def test_doctor_describes_the_machine():
    machine = interop.doctor().machine
    assert machine.problem == ""
    assert machine.driver
    assert machine.driver_cuda
    assert len(machine.gpus) == call(runtime.cudaGetDeviceCount())
    for gpu in machine.gpus:
        properties = call(runtime.cudaGetDeviceProperties(gpu.ordinal))
        assert gpu.name == properties.name.split(b"\0")[0].decode()
        assert gpu.memory == properties.totalGlobalMem
        assert gpu.compute_capability == f"{properties.major}.{properties.minor}"


@pytest.mark.parametrize("device", [0, 1])
def test_doctor_describes_the_current_streams(device, interop_need):
    interop_need("cupy", "torch")
    if device:
        interop_need("gpu2")
    stream = interop.new_stream(device, priority=-2)
    with interop.use(stream, "cupy", "torch"):
        found = interop.doctor()
    for name in ("cupy", "torch"):
        seen = named(found, name).current
        assert (seen.address, seen.device, seen.id) == (stream.cuda_stream, device, stream.stream_id)
        assert (seen.priority, seen.blocking, seen.capturing) == (-2, False, False)
    assert not any("Stream.use()" in what or "set_stream()" in what for what in warnings(found))
    assert any("both work on one stream" in advice.what for advice in found.advice)


def test_doctor_warns_of_a_stream_that_cupy_still_uses(interop_need):
    interop_need("cupy")
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    stream.use()
    try:
        found = interop.doctor()
        assert named(found, "cupy").current.address == stream.ptr
        assert any("an earlier Stream.use()" in what for what in warnings(found))
    finally:
        cupy.cuda.Stream.null.use()
    found = interop.doctor()
    assert named(found, "cupy").current.address == 1
    assert not any("Stream.use()" in what for what in warnings(found))


def test_doctor_warns_of_a_stream_that_torch_still_uses(interop_need):
    interop_need("torch")
    import torch

    torch.cuda.set_stream(torch.cuda.Stream())
    try:
        assert any("an earlier torch.cuda.set_stream()" in what for what in warnings(interop.doctor()))
    finally:
        torch.cuda.set_stream(torch.cuda.default_stream())
    assert not any("set_stream()" in what for what in warnings(interop.doctor()))


def test_doctor_warns_of_a_blocking_stream_beside_the_legacy_one(interop_need):
    interop_need("cupy", "torch")
    import cupy
    import torch

    torch.cuda.init()
    for non_blocking in (False, True):
        with cupy.cuda.Stream(non_blocking=non_blocking):
            found = interop.doctor()
        about = [advice.about for advice in found.advice if "each waits for all earlier work" in advice.what]
        assert ("torch, cupy" in about) is not non_blocking
        assert named(found, "cupy").current.blocking is not non_blocking


def test_doctor_invalidates_no_capture(interop_need):
    """In a process of its own: a capture of the mode *global* is invalidated by the calls of any library's threads."""
    interop_need("cupy", "torch")
    code = """
import cupy, torch
import interop
torch.cuda.init()
found = []
for name in ("Global", "ThreadLocal", "Relaxed"):
    mode = getattr(runtime.cudaStreamCaptureMode, f"cudaStreamCaptureMode{name}")
    for non_blocking in (True, False):
        stream = interop.new_stream(non_blocking=non_blocking)
        interop.doctor()
        with interop.use(stream, "cupy"):
            assert not runtime.cudaStreamBeginCapture(stream.cuda_stream, mode)[0]
            said = interop.doctor()
            shown = [s._repr_html_() for s in (stream, interop.ExternalStream(1), interop.ExternalStream(2))]
            status, _ = runtime.cudaStreamEndCapture(stream.cuda_stream)
        capturing = next(library.current.capturing for library in said.libraries if library.name == "cupy")
        told = any("captures a graph" in advice.what for advice in said.warnings)
        drawn = all("interop.ExternalStream" in text for text in shown)
        found.append([name, non_blocking, int(status), capturing, told, drawn])
print(json.dumps(found))
"""
    expected = [
        [mode, kind, 0, True, True, True] for mode in ("Global", "ThreadLocal", "Relaxed") for kind in (True, False)
    ]
    assert result(code) == expected


def test_doctor_does_not_block_the_host(interop_need):
    interop_need("cupy")
    interop.doctor()
    stream = interop.new_stream()
    with interop.use(stream, "cupy"), gate(stream) as shut:
        interop.doctor()
        stream._repr_html_()
        assert not shut.is_open
        assert not stream.query()


def test_probe_hands_a_stream_to_every_library():
    done = run(None, "-m", "interop", "doctor", "--probe", "--json")
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)
    trips = {library["name"]: library["round_trip"] for library in found["libraries"]}
    assert {name for name, trip in trips.items() if trip == "ok"} >= {"cupy", "numba", "torch", "cuda.core"}
    assert not [library for library in found["libraries"] if library["failure"]]
    assert set(trips.values()) <= {"ok", "takes no stream"}
    assert any(gpu["has_context"] for gpu in found["machine"]["gpus"])


def test_the_output_for_the_page_is_recorded(interop_need):
    interop_need("cupy")
    interop_need("torch")
    code = """
import cupy, torch, interop
cupy.zeros(1), torch.zeros(1, device="cuda")
print(interop.doctor())
"""
    done = run(code, COLUMNS="120")
    assert done.returncode == 0, done.stderr
    assert "cupy, torch" in done.stdout  # both work on the legacy default stream
    measured("doctor", shown=done.stdout.strip())


def test_doctor_shows_the_pools_of_the_libraries(interop_need):
    interop_need("cupy", "torch", "cuda.core")
    code = """
import cupy, torch
import cuda.core
import interop
before = [len(interop.doctor().pools), contexts()]
x, y = cupy.ones(1 << 20, "u1"), torch.ones(1 << 20, dtype=torch.uint8, device="cuda")
pools = {pool.name: [pool.libraries, pool.held, pool.used] for pool in interop.doctor().pools}
with cupy.cuda.using_allocator(cupy.cuda.MemoryAsyncPool().malloc):
    z = cupy.ones(1 << 20, "u1")
    shared = next([pool.libraries, pool.held, pool.used] for pool in interop.doctor().pools if "cupy" in pool.libraries)
print(json.dumps([before, pools, shared, "CuPy's pool" in repr(interop.doctor())]))
"""
    (count, existing), pools, (sharing, held, used), shown = result(code)
    assert count == 0 or any(existing)
    assert "cuda.core" in pools["the driver's pool (cudaMallocAsync)"][0]
    for name, library in (("CuPy's pool", "cupy"), ("PyTorch's pool", "torch")):
        assert pools[name][0] == [library]
        assert pools[name][1] >= pools[name][2] >= 1 << 20
    assert {"cuda.core", "cupy"} <= {*sharing}
    assert held >= used >= 1 << 20
    assert shown


def test_doctor_shows_that_cupy_takes_its_memory_from_rmm(interop_need):
    interop_need("cupy", "rmm")
    code = """
import cupy, rmm
import interop
from rmm.allocators.cupy import rmm_cupy_allocator
rmm.mr.set_current_device_resource(rmm.mr.PoolMemoryResource(rmm.mr.CudaMemoryResource(), initial_pool_size=1 << 24))
with cupy.cuda.using_allocator(rmm_cupy_allocator):
    x = cupy.ones(1 << 20, "u1")
    found = [[pool.name, pool.libraries, pool.held] for pool in interop.doctor().pools if "rmm" in pool.libraries]
    del x
print(json.dumps(found))
"""
    ((name, libraries, held),) = result(code)
    assert (name, libraries) == ("RMM's PoolMemoryResource", ["cupy", "rmm"])
    assert held >= 1 << 24


def test_doctor_shows_the_pool_of_jax_and_initialises_none(interop_need):
    interop_need("jax")
    code = """
import interop
import jax
stream = interop.new_stream()
def pools():
    return [[pool.name, pool.used] for pool in interop.doctor().pools if "jax" in pool.libraries]
before = [pools(), jax._src.xla_bridge.backends_are_initialized()]
x = jax.block_until_ready(jax.numpy.ones(1 << 20, "uint8"))
print(json.dumps([before, pools()]))
"""
    before, ((name, used),) = result(code, XLA_PYTHON_CLIENT_PREALLOCATE="false")
    assert before == [[], False]
    assert name == "JAX's pool"
    assert used >= 1 << 20


def test_doctor_works_without_any_library():
    code = """
import interop
from interop.diagnosis import libraries
libraries._is_installed = lambda name: False
found = interop.doctor()
print(json.dumps([[advice.what for advice in found.warnings], len(found.machine.gpus), contexts()]))
"""
    whats, gpus, contexts = result(code)
    assert whats == ["none of the libraries that interop knows is installed"]
    assert gpus
    assert not any(contexts)


def test_doctor_works_in_a_forked_process():
    code = """
import os
import interop
stream = interop.new_stream()
reading, writing = os.pipe()
if not os.fork():
    found = interop.doctor()
    text = json.dumps([[advice.fix for advice in found.warnings], stream._repr_html_()])
    os.write(writing, text.encode())
    os._exit(0)
os.wait()
print(os.read(reading, 1 << 16).decode())
"""
    fixes, shown = result(code)
    assert "spawn" in fixes[0]
    assert "forked" in shown


@pytest.mark.parametrize(("value", "address"), [("0", 1), ("1", 2)])
def test_doctor_knows_which_default_stream_cupy_uses(value, address, interop_need):
    interop_need("cupy")
    code = """
import interop
found = interop.doctor(probe=True)
cupy = next(library for library in found.libraries if library.name == "cupy")
print(json.dumps([cupy.current.address, cupy.default, [advice.about for advice in found.warnings]]))
"""
    seen, default, about = result(code, CUPY_CUDA_PER_THREAD_DEFAULT_STREAM=value)
    assert seen == address
    assert default == {1: "legacy", 2: "per-thread"}[address]
    assert ("default streams" in about) is (address == 2)
    assert "cupy" not in about


@pytest.mark.parametrize("library", STREAMS)
def test_the_html_of_a_stream_describes_it(library, interop_need):
    if library != "int":
        interop_need(library)
    stream = interop.as_stream(native_stream(library, 0, 0))
    facts = look_at(stream)
    if library in ("int", "cuda.bindings", "tvm_ffi"):  # whose streams are addresses
        assert "nothing keeps it alive" in facts.not_asked
        return
    assert (facts.library, facts.device, facts.id) == (library, 0, stream.stream_id)
    assert (facts.priority, facts.capturing, facts.not_asked) == (stream.priority, False, "")
    flags = call(runtime.cudaStreamGetFlags(stream.cuda_stream))
    assert facts.blocking is not bool(flags & 1)
    assert f"{stream.cuda_stream:#x}" in stream._repr_html_()


def test_a_repr_of_a_stream_on_another_device_creates_no_context_here(interop_need):
    interop_need("gpu2")
    code = """
import threading
import interop
from interop import _cuda
runtime.cudaSetDevice(1)
stream = interop.new_stream(1)
shown, after = [], []
def look():  # a new thread: device 0 is current, and no context
    shown.append(stream._repr_html_())
    after.append(contexts()[:2])
before = contexts()[:2]
thread = threading.Thread(target=look)
thread.start()
thread.join()
print(json.dumps([before, after[0], "non-blocking" in shown[0]]))
"""
    before, after, shown = result(code)
    assert before == after == [0, 1]
    assert shown


def test_a_repr_on_every_device_leaves_the_current_one(interop_need):
    interop_need("gpu2")
    streams = [interop.new_stream(device) for device in (0, 1)]
    for current in (0, 1):
        with on_device(current):
            for stream in streams:
                assert look_at(stream).device == stream.device
                assert call(runtime.cudaGetDevice()) == current
