"""docs/with.md: its lines, its table, and the lines that libraries take without a driver.

A library that is not installed is skipped here; ``make with`` installs all of tests/with.txt. The control of a line is
another stream in the same line, or a kind of stream that the page says is refused.
"""

import ast
import json
import re
from types import SimpleNamespace
from unittest import mock

import pytest

import interop
from docs import update
from tests import with_page
from tests.with_page import GIVE_NO_ADDRESS, LINES, ON_A_GPU, PAGE, ROOT, WHY_NOT, WITHOUT_A_GPU


def test_there_are_thirty_five_libraries_with_a_line_each():
    assert len(LINES) == len(re.findall("^### ", PAGE.read_text(), re.MULTILINE)) == 35
    assert {*ON_A_GPU, *WITHOUT_A_GPU, *WHY_NOT} == LINES.keys()
    assert {*WHY_NOT} & {*ON_A_GPU, *WITHOUT_A_GPU} == {*WITHOUT_A_GPU} - {*TAKES} == {"onnxruntime"}


@pytest.mark.parametrize("name", LINES)
def test_each_line_is_python_and_has_a_stream(name):
    text = LINES[name].text
    compile(text, str(PAGE), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert re.search(r"\bstream\b|\bas_stream\(|\bjax_call\(", text)


def test_the_packages_are_those_that_are_installed_for_it():
    listed = re.findall(r"^([\w-]+)==", (ROOT / "tests/with.txt").read_text(), re.MULTILINE)
    assert listed == sorted(WITHOUT_A_GPU.values())


def test_the_table_has_a_row_for_each_library_and_claims_only_what_was_run(tmp_path):
    run = {"version": "triton 3.6.0", "gpu": "a GPU", "driver": "1", "date": "today"}
    path = tmp_path / "with.json"
    seen = {"tvm_ffi": "apache-tvm-ffi 0.1", "onnxruntime": "onnxruntime 1.32.0", "cutlass": "nvidia-cutlass-dsl 4.8"}
    path.write_text(json.dumps({"gpu": {"triton": run}, "no_gpu": seen}))
    count, _, _, _, *rows = update._with(path)
    assert count == "35 libraries: 1 run on a GPU, 2 taken without a GPU, 32 not run."
    assert len(rows) == 35
    assert "| [Triton](#triton) | run | failed | triton 3.6.0; a GPU, driver 1, today |" in rows
    assert "| [tvm-ffi](#tvm-ffi) | taken | another address | apache-tvm-ffi 0.1, without a GPU |" in rows
    assert "| [CUTLASS DSL](#cutlass-dsl) | taken | refused | nvidia-cutlass-dsl 4.8, without a GPU |" in rows
    assert "| [TensorRT](#tensorrt) | not run: needs an engine | | |" in rows
    assert "| [CuPy's NCCL](#cupys-nccl) | not run: its test for a GPU has not been run | | |" in rows
    assert "| [cuTile](#cutile) | not run: `make with` has not been run | | |" in rows
    (line,) = (row for row in rows if row.startswith("| [ONNX Runtime](#onnx-runtime) | not run: needs a model;"))
    assert line.endswith("; its trap was shown | | onnxruntime 1.32.0, without a GPU |")


# -- without a driver ----------------------------------------------------------------------------------------------


def run(name, stream, **names):
    """Run the line of a library with this stream, and the other names that it uses."""
    exec(compile(LINES[name].text, str(PAGE), "exec"), {"stream": stream, **names})


def cuda_tile(stream):
    import cuda.tile as ct

    @ct.kernel
    def kernel(x, y):
        pass

    # What it does after it has taken the stream needs the driver. That it is refused is a TypeError.
    with pytest.raises(OSError, match="libcuda"):
        run("cuda.tile", stream, ct=ct, grid=(1,), kernel=kernel, x=1, y=2)
    with pytest.raises(TypeError, match="Unsupported stream type"):
        ct.launch(stream, (1,), kernel, (1, 2))


def cutlass(stream):
    import cutlass
    from cuda.bindings.driver import CUstream
    from cutlass import cute

    @cute.jit
    def kernel(x: cutlass.Int32, y: cutlass.Int32, at: CUstream):
        pass

    run("cutlass", stream, kernel=kernel, x=1, y=2)
    for refused in (stream, stream.cuda_stream):
        with pytest.raises(cutlass.base_dsl.common.DSLUserCodeError, match="ARG_ANNOTATION_MISMATCH"):
            kernel(1, 2, refused)


def nccl4py(stream):
    import nccl.core

    def allreduce(x, y, op, *, stream):
        seen.append(nccl.core.cuda.get_stream_ptr(stream))  # by which its communicators read a stream

    seen = []
    run("nccl.core", stream, nccl=nccl, communicator=SimpleNamespace(allreduce=allreduce), x=1, y=2)
    return seen[0]


def dali(stream):
    import nvidia.dali.experimental.dynamic as ndd

    run("nvidia.dali.experimental.dynamic", stream, ndd=ndd)
    return ndd.get_current_stream().handle


def nvshmem(stream):
    import nvshmem.core
    from nvshmem.core import collective

    with mock.patch.multiple(collective, _get_device=mock.Mock(return_value=(None, None)), bindings=mock.DEFAULT) as of:
        run("nvshmem.core", stream, nvshmem=nvshmem)
        return of["bindings"].barrier_all_on_stream.call_args.args[0]


def quadrants(stream):
    import quadrants as qd

    kernel = mock.Mock()
    run("quadrants", stream, qd=qd, kernel=kernel, x=1)
    return kernel.call_args.kwargs["qd_stream"].handle


def tvm_ffi(stream):
    import tvm_ffi

    seen = []
    device = tvm_ffi.device("cuda", 0)

    def function(x, y):
        seen.append(tvm_ffi.get_raw_stream(device))

    run("tvm_ffi", stream, tvm_ffi=tvm_ffi, function=function, x=1, y=2)
    assert tvm_ffi.get_raw_stream(device) == 0  # outside of the block
    return seen[0]


TAKES = {
    "cuda.tile": cuda_tile,
    "cutlass": cutlass,
    "nccl.core": nccl4py,
    "nvidia.dali.experimental.dynamic": dali,
    "nvshmem.core": nvshmem,
    "quadrants": quadrants,
    "tvm_ffi": tvm_ffi,
}


@pytest.mark.needs("no_gpu")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TAKES)
def test_a_library_takes_a_simulated_stream(name, interop_need, interop_simulated_gpu):
    interop_need(name)
    with_page.record("no_gpu", name, None)
    streams = interop.new_stream(), interop.new_stream()
    took = [TAKES[name](stream) for stream in streams]
    assert took == [None if name in GIVE_NO_ADDRESS else stream.cuda_stream for stream in streams]
    with_page.record("no_gpu", name, with_page.version_of(name))


@pytest.mark.filterwarnings("ignore")
def test_trap_onnx_runtime_names_no_stream(interop_need):
    interop_need("onnxruntime", "numpy")
    import numpy as np
    import onnxruntime

    asked = []

    class Array:
        def __dlpack__(self, **how):
            asked.append(how)
            return np.zeros(3, "f4").__dlpack__()

        def __dlpack_device__(self):
            return 1, 0

    with_page.record("no_gpu", "onnxruntime", None)
    value = onnxruntime.OrtValue.from_dlpack(Array())
    assert asked == [{}]  # it does not say which stream will read, so the producer orders nothing for it
    assert "nused" in onnxruntime.OrtValue.__dlpack__.__doc__
    assert value.__dlpack__(stream=12345)  # no such stream: it is not looked at
    with_page.record("no_gpu", "onnxruntime", with_page.version_of("onnxruntime"))
