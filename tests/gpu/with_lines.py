"""Run the line of one library, as docs/with.md has it, behind a gate; then its control: the line on another stream.

``python -m tests.gpu.with_lines triton`` prints a line of JSON: the values that the library wrote each time, or why the
library cannot be made ready here. Each library copies the bytes of ``x`` to ``y``.
"""

import ctypes
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from cuda.bindings import runtime

import interop
from interop.testing import gate
from tests.gpu.lab import STALE, UNSEEN, WRITTEN, call
from tests.with_page import LINES, PAGE, version_of

SIZE = 1024


def tensors() -> dict[str, Any]:
    import torch

    return {name: torch.zeros(SIZE, dtype=torch.uint8, device="cuda") for name in ("x", "y")}


def arrays() -> dict[str, Any]:
    import cupy

    return {name: cupy.zeros(SIZE, dtype="u1") for name in ("x", "y")}


def triton() -> dict[str, Any]:
    from tests.gpu.triton_kernel import copy

    return {**tensors(), "kernel": copy, "grid": (1,)}


def torch_distributed() -> dict[str, Any]:
    import torch

    store, device = torch.distributed.HashStore(), torch.device("cuda", 0)
    torch.distributed.init_process_group("nccl", store=store, rank=0, world_size=1, device_id=device)
    return {**tensors(), "torch": torch}


def cupy_nccl() -> dict[str, Any]:
    from cupy.cuda import nccl

    return {**arrays(), "nccl": nccl, "communicator": nccl.NcclCommunicator(1, nccl.get_unique_id(), 0)}


def nccl4py() -> dict[str, Any]:
    import nccl.core

    communicator = nccl.core.Communicator.init(nranks=1, rank=0, unique_id=nccl.core.get_unique_id())
    return {**arrays(), "nccl": nccl, "communicator": communicator}


def numba_cuda_mlir() -> dict[str, Any]:
    from numba_cuda_mlir import cuda

    @cuda.jit
    def kernel(x, y):
        i = cuda.grid(1)
        if i < x.size:
            y[i] = x[i]

    return {**arrays(), "kernel": kernel, "grid": SIZE // 256, "block": 256}


def tvm_ffi() -> dict[str, Any]:
    import tvm_ffi

    def function(x: Any, y: Any) -> None:
        stream = tvm_ffi.get_raw_stream(tvm_ffi.device("cuda", 0))
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        call(runtime.cudaMemcpyAsync(address(y), address(x), SIZE, kind, stream))

    return {**arrays(), "tvm_ffi": tvm_ffi, "function": function}


READY: dict[str, Callable[[], dict[str, Any]]] = {
    "cupy.cuda.nccl": cupy_nccl,
    "nccl.core": nccl4py,
    "numba_cuda_mlir": numba_cuda_mlir,
    "torch.distributed": torch_distributed,
    "triton": triton,
    "tvm_ffi": tvm_ffi,
}
"""Makes the arrays, and all other names that the line of a library uses."""


def address(array: Any) -> int:
    return int(array.data_ptr() if hasattr(array, "data_ptr") else array.data.ptr)


def fill(array: Any, value: int, stream: interop.ExternalStream) -> None:
    call(runtime.cudaMemsetAsync(address(array), value, SIZE, stream.cuda_stream))


def values(name: str, names: dict[str, Any]) -> dict[str, list[int]]:
    """The values in ``y`` after the line, and after its control."""
    line = compile(LINES[name].text, str(PAGE), "exec")
    writer, other = interop.new_stream(name="writer"), interop.new_stream(name="other")
    found = {}
    for warm in (True, False):
        for which, stream in (("line", writer), ("control", other)):
            fill(names["x"], STALE, writer)
            fill(names["y"], UNSEEN, writer)
            call(runtime.cudaDeviceSynchronize())
            if warm:  # loads and compiles everything
                exec(line, {"interop": interop, **names, "stream": stream})
                continue
            with gate(writer) as shut:
                fill(names["x"], WRITTEN, writer)
                exec(line, {"interop": interop, **names, "stream": stream})
                if stream is other:  # nothing holds it up
                    other.synchronize()
                assert not shut.is_open, "the host was blocked"
            call(runtime.cudaDeviceSynchronize())
            host = (ctypes.c_uint8 * SIZE)()
            kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
            call(runtime.cudaMemcpy(ctypes.addressof(host), address(names["y"]), SIZE, kind))
            found[which] = sorted(set(host))
    return found


def main(name: str) -> None:
    try:
        names = READY[name]()
    except Exception as error:  # whatever a library, or NCCL on this machine, cannot do
        found: dict[str, object] = {"cannot": f"{type(error).__name__}: {error}"}
    else:
        found = {**values(name, names), "version": version_of(name)}
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
    os._exit(0)  # NCCL's threads and its communicators end with the process
