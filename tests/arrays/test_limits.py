"""An array that a library cannot take is refused before the library is called: each library, each kind of array."""

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import interop
from interop import _cuda, sim
from interop._arrays.limits import refusal
from interop._native import native
from interop.adapters.base import Adapter, Takes
from interop.adapters.tensor import CUDA, TYPES, DataType, Tensor
from interop.errors import NotSupportedError
from tests.arrays.test_arrays import Library, Owner

F4 = TYPES["<f4"]


def tensor(shape, strides=None, *, address=4096, dtype=F4, read_only=False):
    return Tensor(address, shape, strides, dtype, CUDA, 0, read_only, None)


CASES = {
    "plain": tensor((3, 4)),
    "negative": tensor((4,), (-1,), address=4108),
    "negative2": tensor((3, 4), (-4, -1), address=4140),
    "zero": tensor((3, 4), (0, 1)),
    "overlapping": tensor((4, 3), (1, 1)),
    "transposed": tensor((3, 4), (1, 3)),
    "gaps": tensor((3, 4), (8, 2)),
    "empty": tensor((0, 3)),
    "empty, null": tensor((0, 3), address=0),
    "empty, negative": tensor((0, 3), (-3, 1)),
    "0-d": tensor(()),
    "5-d": tensor((1, 1, 1, 3, 4)),
    "9-d": tensor((*[1] * 7, 3, 4)),
    "64-d": tensor((*[1] * 62, 3, 4)),
    "65-d": tensor((*[1] * 63, 3, 4)),
    "unaligned": tensor((4,), address=4097),
    "one row, with an odd stride": tensor((1, 4), (-7, 1)),
    "read-only": tensor((3, 4), read_only=True),
    "bfloat16": tensor((4,), dtype=DataType(4, 16, 1)),
    "far apart": tensor((2, 2), (2**30, 1)),
}

# What the libraries take, as measured on a GPU.
TAKES = {
    "cupy": Takes(types=frozenset({*TYPES.values(), DataType(4, 16, 1)})),
    "numba": Takes(types=frozenset(TYPES.values())),
    "numba_cuda_mlir": Takes(types=frozenset(TYPES.values())),
    "torch": Takes(negative_strides=False, types=frozenset({*TYPES.values(), DataType(4, 16, 1)})),
    "jax": Takes(negative_strides=False, zero_strides=False, overlapping=False, gaps=False, read_only=True),
    "cuda.core": Takes(unaligned=True, read_only=True),
    "tvm_ffi": Takes(),
    "warp": Takes(dimensions=(1, 4), largest_stride=2**31 - 1, types=frozenset(TYPES.values())),
}
_DIMENSIONS = {"65-d": "65 dimensions"}
REFUSED = {
    "cupy": {**_DIMENSIONS, "unaligned": "multiple of the 4", "read-only": "read-only"},
    "numba": {**_DIMENSIONS, "unaligned": "multiple of the 4", "read-only": "read-only", "bfloat16": "bfloat16"},
    "numba_cuda_mlir": {
        **_DIMENSIONS,
        "unaligned": "multiple of the 4",
        "read-only": "read-only",
        "bfloat16": "bfloat16",
    },
    "torch": {
        **_DIMENSIONS,
        "negative": "negative strides",
        "negative2": "negative strides",
        "unaligned": "multiple of the 4",
        "read-only": "read-only",
    },
    "jax": {
        **_DIMENSIONS,
        "negative": "negative",
        "negative2": "negative",
        "zero": "strides of 0",
        "overlapping": "overlap",
        "gaps": "gaps",
        "far apart": "gaps",
        "unaligned": "multiple of the 4",
    },
    "cuda.core": _DIMENSIONS,
    "tvm_ffi": {**_DIMENSIONS, "unaligned": "multiple of the 4", "read-only": "read-only"},
    "warp": {
        "0-d": "of 1 to 4",
        "5-d": "of 1 to 4",
        "9-d": "of 1 to 4",
        "64-d": "of 1 to 4",
        "65-d": "of 1 to 4",
        "unaligned": "multiple of the 4",
        "read-only": "read-only",
        "bfloat16": "bfloat16",
        "far apart": "4294967296 bytes",
    },
}


def standin(library, takes):
    adapter = Adapter()
    adapter.library, adapter.takes = library, takes
    return adapter


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("library", TAKES)
def test_each_library_refuses_what_it_cannot_take(library, case, monkeypatch):
    monkeypatch.setattr("interop._arrays.limits.CAPSULES", True)
    reason = refusal(CASES[case], standin(library, TAKES[library]), None)
    expected = REFUSED[library].get(case)
    if expected is None:
        assert reason == ""
    else:
        assert expected in reason
        assert library in reason


@pytest.mark.parametrize("library", ["cupy", "numba", "numba_cuda_mlir", "torch", "tvm_ffi", "cuda.core"])
def test_the_adapters_have_the_limits_above(library):
    pytest.importorskip(f"{library}.cuda" if library.startswith("numba") else library)
    takes = interop.adapters.adapter_named(library).takes
    assert takes._replace(types=None) == TAKES[library]._replace(types=None)
    if TAKES[library].types is None:
        assert takes.types is None
    else:
        assert takes.types >= TAKES[library].types


@pytest.mark.parametrize(
    ("library", "text"),
    [
        ("jax", "Takes(negative_strides=False, zero_strides=False, overlapping=False, gaps=False, read_only=True)"),
        ("warp", "Takes(dimensions=(1, 4), largest_stride=2**31 - 1, types=frozenset(_TYPES.values()))"),
    ],
)
def test_the_sources_of_the_other_adapters_have_the_limits_above(library, text):
    assert text in Path(interop.adapters.__path__[0], f"{library}.py").read_text()


def test_a_plain_handover_takes_every_array(monkeypatch):
    monkeypatch.setattr("interop._arrays.limits.CAPSULES", True)
    assert not [case for case, array in CASES.items() if refusal(array, None, None)]


def test_arrays_that_need_the_extension_are_refused_without_it(monkeypatch):
    monkeypatch.setattr("interop._arrays.limits.CAPSULES", False)
    assert "needs its extension in C" in refusal(CASES["bfloat16"], None, None)
    library = standin("cupy", TAKES["cupy"])
    assert "needs its extension in C" in refusal(CASES["bfloat16"], library, None)
    assert refusal(CASES["plain"], library, None) == ""
    library.needs_extension = True
    assert "needs its extension in C" in refusal(CASES["plain"], library, None)


# -- each case in a process of its own, with libraries that can make arrays over host memory ---------------------------

PROGRAM = """
import json, os, sys
import numpy as np
import torch
import interop
from interop import Handover, sim
from interop._arrays.limits import refusal
from interop.adapters.tensor import TYPES, Tensor
from interop.adapters import adapter_named
from interop.errors import NotSupportedError

name, kind = sys.argv[1], int(sys.argv[2])
memory = np.arange(4096, dtype="<f4")
base = (memory.ctypes.data + 255) // 256 * 256

class Holder:
    pass

def by_adapter(tensor):
    adapter_named(name).make_array(tensor, Holder())

def by_holder(is_neutral):
    def make(tensor):
        seen = torch.from_dlpack(Handover(tensor, None, consumer, is_neutral=is_neutral))
        assert seen.shape == tensor.shape
    return make

def status(make, tensor):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            make(tensor)
        except NotSupportedError:
            os._exit(2)
        except Exception:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

makers = {"a stranger": by_holder(True), "a stranger, unchecked": by_holder(False)}
found = {}
with sim.simulate():
    consumer = interop.new_stream()
    for case, (address, shape, strides, item) in json.load(sys.stdin).items():
        tensor = Tensor(
            base + address if address else 0, tuple(shape), None if strides is None else tuple(strides), TYPES[item],
            kind, 0, False, None,
        )
        refused = name not in makers and bool(refusal(tensor, adapter_named(name), None))
        found[case] = [refused, status(makers.get(name, by_adapter), tensor)]
print(json.dumps(found))
"""


def in_processes(name, device_type):
    """For each case, whether it is refused to the library *name*, and how a process ends that makes such an array."""
    cases = {
        case: (one.address and one.address - 4096 + 1024, one.shape, one.strides, "<f4")
        for case, one in CASES.items()
        if case not in ("read-only", "bfloat16", "far apart")
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, str(device_type)],
        input=json.dumps(cases),
        env={**os.environ, "PYTHONPATH": str(Path(interop.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


NEGATIVE = {"negative", "negative2"}


@pytest.mark.parametrize(("library", "device_type"), [("torch", 1), ("cupy", 2)])
def test_a_library_makes_every_array_that_is_not_refused(library, device_type):
    pytest.importorskip("torch")
    pytest.importorskip(library)
    if library == "torch" and native is None:
        pytest.skip("capsules need the extension")
    found = in_processes(library, device_type)
    assert {case for case, (refused, status) in found.items() if not refused and status} == set()
    died = {case for case, (_, status) in found.items() if status < 0}
    assert died == (NEGATIVE if library == "torch" else set()), "the library aborts for other arrays"


@pytest.mark.skipif(native is None, reason="capsules need the extension")
@pytest.mark.parametrize("name", ["a stranger", "a stranger, unchecked"])
def test_the_neutral_holder_kills_nobody_who_asks_it_for_a_capsule(name):
    pytest.importorskip("torch")
    found = in_processes(name, 1)
    ended = {case: status for case, (_, status) in found.items() if status}
    assert ended == dict.fromkeys(NEGATIVE, 2 if name == "a stranger" else -signal.SIGABRT)


# -- in a hand-over ---------------------------------------------------------------------------------------------------


@pytest.fixture
def streams(monkeypatch):
    with sim.simulate():
        monkeypatch.setattr(_cuda.memory, "pointer_place", lambda *_: (CUDA, 0))
        yield interop.new_stream(), interop.new_stream()
        interop.release()


@pytest.fixture
def picky(add_library, monkeypatch):
    library = Library()
    library.takes = Takes(negative_strides=False)
    add_library(library)
    monkeypatch.setattr(Library, "make_array", lambda *_: pytest.fail("the library was asked"))
    return library


@pytest.mark.parametrize("way", ["handoff", "borrow"])
def test_a_refused_array_reaches_neither_the_library_nor_cuda(streams, picky, way, monkeypatch):
    p, c = streams
    monkeypatch.setattr(interop.ExternalStream, "_wait_for", lambda *_: pytest.fail("ordered"))
    source = Owner(np.arange(12.0)[::-1])
    refused = pytest.raises(NotSupportedError, match=r"standin takes no array with negative strides, \(-1,\) elements")
    if way == "handoff":
        with refused:
            interop.handoff(source, c, producer=p, into="standin")
    else:
        lent = interop.borrow(source, consumer=c, producer=p, into="standin")
        with refused:
            lent.__enter__()


def test_a_capsule_is_refused_before_anything_is_ordered(streams, monkeypatch):
    p, c = streams
    holder = interop.handoff(Owner(np.arange(12.0)[::-1]), c, producer=p)
    refused = pytest.raises(NotSupportedError, match=r"Handover of \(12,\).*negative strides, \(-1,\).*copy.*into=")
    with monkeypatch.context() as patch, refused:
        patch.setattr(interop.ExternalStream, "_wait_for", lambda *_: pytest.fail("ordered"))
        holder.__dlpack__()
    assert holder.__cuda_array_interface__["strides"] == (-8,)


def exchanged(holder, place):
    """The status that the function at offset *place* in the table of the exchange API returns to a consumer in C."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = get(type(holder).__dlpack_c_exchange_api__, b"dlpack_exchange_api")
    function = ctypes.c_void_p.from_address(table + place).value
    room = ctypes.create_string_buffer(64)
    call = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p)(function)
    status = call(holder, ctypes.addressof(room))
    if place == GIVE:
        managed = ctypes.c_void_p.from_buffer(room).value
        ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(ctypes.c_void_p.from_address(managed + 16).value)(managed)
    return status


GIVE, SHOW = 24, 40


@pytest.mark.skipif(native is None, reason="the exchange needs the extension")
@pytest.mark.parametrize("place", [GIVE, SHOW])
def test_the_exchange_in_c_refuses_what_a_capsule_refuses(streams, place):
    p, c = streams
    values = np.arange(12.0).reshape(3, 4)
    for view in (values, values.T, values[:, ::2], values[:0], values[1:2, ::-1][:, :1]):
        assert exchanged(interop.handoff(Owner(view), c, producer=p), place) == 0
    for view in (values[::-1], values[:, ::-1], values[:, ::-2]):
        with pytest.raises(NotSupportedError, match="negative strides"):
            exchanged(interop.handoff(Owner(view), c, producer=p), place)


def test_the_caller_can_allow_read_only_memory(streams, add_library):
    add_library(Library())
    p, c = streams
    values = np.arange(12.0)
    source = Owner(values, data=(values.ctypes.data, True))
    with pytest.raises(NotSupportedError, match='say read_only="allow"'):
        interop.handoff(source, c, producer=p, into="standin")
    assert interop.handoff(source, c, producer=p, into="standin", read_only="allow") is not None
    with interop.borrow(source, consumer=c, producer=p, into="standin", read_only="allow") as lent:
        assert lent is not None
    with pytest.raises(ValueError, match="read_only is None"):
        interop.handoff(source, c, producer=p, into="standin", read_only=True)
