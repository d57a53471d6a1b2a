"""The libraries of the matrix: how each makes, writes and reads an array, and how it takes one by default."""

import contextlib
import ctypes
import importlib
from collections.abc import Callable
from typing import Any, ClassVar, Final

import numpy as np

import interop
from interop.stream import ExternalStream

SIZE: Final = 1 << 18
"""The length of an array, in bytes: every library has bytes."""
_THREADS: Final = 256

Route = Callable[[Any, ExternalStream], Any]
"""Takes a foreign array as the library does by default. The stream is the consumer's: some libraries ask for it."""


class Library:
    """What the matrix needs of a library.

    Attributes:
        name: its import path, or the name of a protocol.
        title: its name in tables.
        routes: how the library takes a foreign array by default, by name. Empty for a library that only gives arrays.
        immutable: whether its arrays cannot be written.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    immutable: ClassVar[bool] = False

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}

    def current(self, stream: ExternalStream) -> contextlib.AbstractContextManager[object]:  # noqa: ARG002
        """Make *stream* the library's current stream in a ``with`` block. A library without one does nothing."""
        return contextlib.nullcontext()

    def stream(self) -> Any:
        """A new stream of the library, non-blocking if it has such streams, on its current device."""
        raise NotImplementedError

    def array(self) -> Any:
        """An array of SIZE zero bytes."""
        raise NotImplementedError

    def write(self, array: Any, value: int, stream: ExternalStream) -> Any:
        """Write *value* into all of *array*, on *stream*. Returns the array that contains it."""
        raise NotImplementedError

    def read(self, view: Any, target: Any, stream: ExternalStream) -> Any:
        """Copy *view* into *target*, both arrays of the library, on *stream*. Returns the array that has the copy."""
        raise NotImplementedError

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        """The values of *target*, copied to the host after all work is done."""
        raise NotImplementedError


class Cupy(Library):
    """CuPy."""

    name = "cupy"
    title = "CuPy"

    def __init__(self) -> None:
        self._cupy = cupy = importlib.import_module("cupy")
        self.routes = {
            "cupy.asarray": lambda array, _: cupy.asarray(array),
            "cupy.from_dlpack": lambda array, _: cupy.from_dlpack(array),
        }

    def current(self, stream: ExternalStream) -> contextlib.AbstractContextManager[object]:
        return interop.use(stream, "cupy")

    def stream(self) -> Any:
        return self._cupy.cuda.Stream(non_blocking=True)

    def array(self) -> Any:
        return self._cupy.zeros(SIZE, "u1")

    def write(self, array: Any, value: int, stream: ExternalStream) -> Any:
        with self.current(stream):
            array.fill(value)
        return array

    def read(self, view: Any, target: Any, stream: ExternalStream) -> Any:
        with self.current(stream):
            self._cupy.copyto(target, view.view(target.dtype))  # the bytes of cuda.core's buffers are signed
        return target

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        return np.asarray(target.get())


class Torch(Library):
    """PyTorch."""

    name = "torch"
    title = "PyTorch"

    def __init__(self) -> None:
        self._torch = torch = importlib.import_module("torch")
        self.routes = {
            "torch.as_tensor": lambda array, _: torch.as_tensor(array, device="cuda"),
            "torch.from_dlpack": lambda array, _: torch.from_dlpack(array),
        }

    def current(self, stream: ExternalStream) -> contextlib.AbstractContextManager[object]:
        return interop.use(stream, "torch")

    def stream(self) -> Any:
        """A stream of PyTorch's pool, which is non-blocking."""
        return self._torch.cuda.Stream(self._torch.cuda.current_device())

    def array(self) -> Any:
        return self._torch.zeros(SIZE, dtype=self._torch.uint8, device="cuda")

    def write(self, array: Any, value: int, stream: ExternalStream) -> Any:
        with self.current(stream):
            array.fill_(value)
        return array

    def read(self, view: Any, target: Any, stream: ExternalStream) -> Any:
        with self.current(stream):
            target.copy_(view)
        return target

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        return np.asarray(target.cpu().numpy())


class Numba(Library):
    """Numba. Its arrays here are bound to no stream."""

    name = "numba"
    title = "Numba"

    def __init__(self) -> None:
        """Import it, and compile two kernels."""
        self._cuda = cuda = importlib.import_module(f"{self.name}.cuda")
        self.routes = {
            f"{self.name}.cuda.as_cuda_array": lambda array, _: cuda.as_cuda_array(array),
            f"{self.title} kernel argument": lambda array, _: array,
        }

        @cuda.jit  # type: ignore[untyped-decorator]
        def fill(target: Any, value: Any) -> None:
            i = cuda.grid(1)
            if i < target.size:
                target[i] = value

        @cuda.jit  # type: ignore[untyped-decorator]
        def copy(source: Any, target: Any) -> None:
            i = cuda.grid(1)
            if i < target.size:
                target[i] = source[i]

        self._fill, self._copy = fill, copy

    def stream(self) -> Any:
        """A blocking stream: Numba makes no others."""
        self._cuda.current_context()
        return self._cuda.stream()

    def array(self) -> Any:
        return self._cuda.to_device(np.zeros(SIZE, "u1"))

    def write(self, array: Any, value: int, stream: ExternalStream) -> Any:
        self._fill[SIZE // _THREADS, _THREADS, stream.to(self.name)](array, value)
        return array

    def read(self, view: Any, target: Any, stream: ExternalStream) -> Any:
        self._copy[SIZE // _THREADS, _THREADS, stream.to(self.name)](view, target)
        return target

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        return np.asarray(target.copy_to_host())


class NumbaCudaMlir(Numba):
    """numba-cuda-mlir, whose interface is that of Numba."""

    name = "numba_cuda_mlir"
    title = "numba-cuda-mlir"


class Jax(Library):
    """JAX. It computes its arrays from an array that is handed to it, on streams of its own."""

    name = "jax"
    title = "JAX"
    immutable = True

    def __init__(self) -> None:
        """Import it, and CuPy, which writes what JAX computes from."""
        self._jax = jax = importlib.import_module("jax")
        self._cupy = Cupy()
        self._copy = jax.jit(lambda array: array + np.uint8(0))
        self.routes = {"jax.dlpack.from_dlpack": lambda array, _: jax.dlpack.from_dlpack(array)}

    def array(self) -> Any:
        """An array of CuPy: JAX cannot write to arrays."""
        return self._cupy.array()

    def write(self, array: Any, value: int, stream: ExternalStream) -> Any:
        """Compute a new array from one that CuPy writes on *stream*."""
        self._cupy.write(array, value, stream)
        return self._copy(interop.handoff(array, stream, producer=stream, into="jax"))

    def read(self, view: Any, target: Any, stream: ExternalStream) -> Any:  # noqa: ARG002
        """Compute a new array from it."""
        return self._copy(view)

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        return np.asarray(target)


class CudaCore(Library):
    """cuda.core: buffers of the device's memory pool, and views of foreign memory."""

    name = "cuda.core"
    title = "cuda.core"

    def __init__(self) -> None:
        self._core = core = importlib.import_module("cuda.core")
        self._view = view = importlib.import_module("cuda.core.utils").StridedMemoryView
        self._device = core.Device()
        self._device.set_current()
        self._host = core.LegacyPinnedMemoryResource()
        self.routes = {
            "StridedMemoryView.from_any_interface": lambda array, stream: view.from_any_interface(
                array, stream_ptr=stream.cuda_stream
            )
        }

    def stream(self) -> Any:
        return self._device.create_stream()

    def array(self) -> Any:
        stream = self._device.create_stream()
        buffer = self._device.allocate(SIZE, stream=stream)
        stream.sync()
        return buffer

    def write(self, array: Any, value: int, stream: ExternalStream) -> Any:
        self._buffer(array).fill(value, stream=stream.to("cuda.core"))
        return array

    def read(self, view: Any, target: Any, stream: ExternalStream) -> Any:
        self._buffer(view).copy_to(target, stream=stream.to("cuda.core"))
        return target

    def _buffer(self, array: Any) -> Any:
        if isinstance(array, self._core.Buffer):
            return array
        return self._core.Buffer.from_handle(array.ptr, SIZE, owner=array)

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        stream = self._device.create_stream()
        host = self._host.allocate(SIZE, stream=stream)
        target.copy_to(host, stream=stream)
        stream.sync()
        return np.frombuffer(ctypes.string_at(int(host.handle), SIZE), np.uint8)


class Rmm(Library):
    """RMM's buffers."""

    name = "rmm"
    title = "RMM"

    def __init__(self) -> None:
        self._rmm = importlib.import_module("rmm")
        self._patterns: dict[int, Any] = {}
        self.routes = {}

    def stream(self) -> Any:
        streams = importlib.import_module("rmm.pylibrmm.stream")
        return streams.Stream(flags=streams.CudaStreamFlags.NON_BLOCKING)

    def array(self) -> Any:
        return self._rmm.DeviceBuffer.to_device(bytes(SIZE))

    def write(self, array: Any, value: int, stream: ExternalStream) -> Any:
        """By a copy: RMM has no kernels."""
        if value not in self._patterns:
            self._patterns[value] = self._rmm.DeviceBuffer.to_device(bytes([value]) * SIZE)
        array.copy_from_device(self._patterns[value], stream.to("rmm"))
        return array

    def read(self, view: Any, target: Any, stream: ExternalStream) -> Any:
        target.copy_from_device(view, stream.to("rmm"))
        return target

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        return np.asarray(target.copy_to_host())


class _Plain(Library):
    """A library that is known to nobody. CuPy's kernels write and read its arrays."""

    made: ClassVar[type["_PlainArray"]]

    def __init__(self) -> None:
        self._cupy = Cupy()
        self.routes = {}

    def array(self) -> Any:
        return self.made(self._cupy.array())

    def write(self, array: Any, value: int, stream: ExternalStream) -> Any:
        self._cupy.write(array.memory, value, stream)
        array.stream = stream
        return array

    def read(self, view: Any, target: Any, stream: ExternalStream) -> Any:
        self._cupy.read(view.memory, target.memory, stream)
        return target

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        return self._cupy.values(target.memory)


class _PlainArray:
    def __init__(self, memory: Any) -> None:
        self.memory = memory
        self.stream: ExternalStream | None = None


class _WithInterface(_PlainArray):
    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        stream = None if self.stream is None else self.stream.cuda_stream
        return {**self.memory.__cuda_array_interface__, "stream": stream}


class _WithDlpack(_PlainArray):
    def __dlpack__(self, *, stream: int | None = None, **how: Any) -> object:
        if stream != -1 and self.stream is not None:
            interop.as_stream(stream or 1).wait_stream(self.stream)
        return self.memory.__dlpack__(stream=-1, **how)

    def __dlpack_device__(self) -> Any:
        return self.memory.__dlpack_device__()


class PlainInterface(_Plain):
    """An object that has only ``__cuda_array_interface__``, which states a stream."""

    name = "__cuda_array_interface__"
    title = "a plain array interface"
    made = _WithInterface


class PlainDlpack(_Plain):
    """An object that has only ``__dlpack__``, which orders the stream that it is given."""

    name = "__dlpack__"
    title = "plain DLPack"
    made = _WithDlpack


LIBRARIES: Final[dict[str, type[Library]]] = {
    kind.name: kind for kind in (Cupy, Numba, NumbaCudaMlir, Torch, Jax, CudaCore, Rmm, PlainInterface, PlainDlpack)
}
