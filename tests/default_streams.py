"""The libraries' own objects for CUDA's default streams, by what they mean there."""

from interop.adapters.base import LEGACY, PER_THREAD


def of_cupy():
    import cupy

    return {LEGACY: cupy.cuda.Stream.null, PER_THREAD: cupy.cuda.Stream.ptds}


def of_torch():
    import torch

    return {LEGACY: torch.cuda.default_stream()}


def of_numba():
    from numba import cuda

    return {LEGACY: cuda.legacy_default_stream(), PER_THREAD: cuda.per_thread_default_stream()}


def of_numba_cuda_mlir():
    from numba_cuda_mlir import cuda

    return {LEGACY: cuda.legacy_default_stream(), PER_THREAD: cuda.per_thread_default_stream()}


def of_cuda_core():
    from cuda.core import LEGACY_DEFAULT_STREAM, PER_THREAD_DEFAULT_STREAM

    return {LEGACY: LEGACY_DEFAULT_STREAM, PER_THREAD: PER_THREAD_DEFAULT_STREAM}


def of_cuda_bindings():
    from cuda.bindings.driver import CUstream

    return {handle: CUstream(handle) for handle in (LEGACY, PER_THREAD)}


def of_rmm():
    from rmm.pylibrmm.stream import DEFAULT_STREAM, PER_THREAD_DEFAULT_STREAM

    return {LEGACY: DEFAULT_STREAM, PER_THREAD: PER_THREAD_DEFAULT_STREAM}


def of_tvm_ffi():
    import tvm_ffi

    device = tvm_ffi.device("cuda", 0)
    return {LEGACY: tvm_ffi.use_raw_stream(device, 0), PER_THREAD: tvm_ffi.use_raw_stream(device, PER_THREAD)}


def of_dali():
    import nvidia.dali.experimental.dynamic as ndd

    return {handle: ndd.stream(stream=Owned(handle)) for handle in (LEGACY, PER_THREAD)}


class Owned:
    """A default stream that states its device, as DALI asks."""

    device = 0

    def __init__(self, handle):
        self.handle = handle

    def __cuda_stream__(self):
        return (0, self.handle)


def of_warp():
    import warp

    return {LEGACY: warp.get_device("cuda").null_stream}


DEFAULT_STREAMS = {
    "cupy": of_cupy,
    "torch": of_torch,
    "numba": of_numba,
    "numba_cuda_mlir": of_numba_cuda_mlir,
    "cuda.core": of_cuda_core,
    "cuda.bindings": of_cuda_bindings,
    "rmm": of_rmm,
    "nvidia.dali.experimental.dynamic": of_dali,
    "tvm_ffi": of_tvm_ffi,
    "warp": of_warp,
}
