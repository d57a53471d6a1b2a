"""The CUDA calls that only :mod:`interop.testing` makes. Each checks CUDA's status code."""

import ctypes

from interop._cuda import Cuda


def capture_begin(cuda: Cuda, handle: int, needs: int = 0) -> None:
    """Begin to capture the stream, in relaxed mode."""
    modes = cuda.runtime().cudaStreamCaptureMode
    cuda.within(needs, cuda.call, "cudaStreamBeginCapture", handle, modes.cudaStreamCaptureModeRelaxed)


def capture_end(cuda: Cuda, handle: int, needs: int = 0) -> None:
    """End the capture, and throw the graph away."""
    cuda.call("cudaGraphDestroy", cuda.within(needs, cuda.call, "cudaStreamEndCapture", handle))


def host_register(cuda: Cuda, address: int, size: int) -> int:
    """Pin *size* bytes of host memory for all devices; the address that devices know it by."""
    runtime = cuda.runtime()
    cuda.call("cudaHostRegister", address, size, runtime.cudaHostRegisterMapped | runtime.cudaHostRegisterPortable)
    return int(cuda.call("cudaHostGetDevicePointer", address, 0))


def stream_wait_value(cuda: Cuda, handle: int, address: int, value: int, needs: int = 0) -> None:
    """Make the stream's future work wait until the 32-bit word at *address* is at least *value*."""
    at_least = 0  # CU_STREAM_WAIT_VALUE_GEQ
    cuda.within(needs, cuda.drive, "cuStreamWaitValue32", handle, address, value, at_least)


def copy_to_host(cuda: Cuda, address: int, size: int, handle: int, context: int) -> bytes:
    """Copy *size* bytes from *address*, in the order of a stream of *context*. Blocks the host."""
    memory = ctypes.create_string_buffer(size)
    kind = cuda.runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
    cuda.within(context, cuda.call, "cudaMemcpyAsync", ctypes.addressof(memory), address, size, kind, handle)
    cuda.stream_synchronize(handle, context)
    return memory.raw


def kernel_load(cuda: Cuda, context: int, ptx: bytes, name: bytes) -> int:
    """Load a kernel from PTX, which the driver compiles, for the life of *context*. May wait for the device."""
    image = ctypes.create_string_buffer(ptx)

    def load() -> int:
        module = cuda.relaxed(cuda.drive, "cuModuleLoadData", ctypes.addressof(image))
        return int(cuda.drive("cuModuleGetFunction", module, name))

    return cuda.within(context, load)


def kernel_launch(cuda: Cuda, kernel: int, number: int, handle: int, context: int) -> None:
    """Launch one thread of a kernel that takes one 64-bit number; returns at once."""
    argument = ctypes.c_uint64(number)
    arguments = ctypes.c_void_p(ctypes.addressof(argument))
    one = (1, 1, 1, 1, 1, 1, 0)
    cuda.within(context, cuda.drive, "cuLaunchKernel", kernel, *one, handle, ctypes.addressof(arguments), 0)
