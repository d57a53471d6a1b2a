"""Each library in its own words: how it makes, writes and reads an array, and how it takes one by default."""

import contextlib
import ctypes
import importlib
from collections.abc import Callable
from typing import Any, ClassVar, Final

import numpy as np

import interop
from interop.stream import ExternalStream

SIZE: Final = 1 << 18
"""Bytes of an array: every library has bytes."""
_THREADS: Final = 256

Route = Callable[[Any, ExternalStream], Any]
"""Takes an array as the library does by default, given the consumer's stream for those that ask for one."""


class Library:
    """What a case of the matrix needs of a library.

    Attributes:
        name: import path, or what is in its place.
        title: for people.
        routes: the ways in which the library takes a foreign array by default; none, if it only has arrays.
        immutable: whether its arrays cannot be written to.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    immutable: ClassVar[bool] = False

    def __init__(self) -> None:
        """Import it."""
        self.routes: dict[str, Route] = {}

    def current(self, stream: ExternalStream) -> contextlib.AbstractContextManager[object]:  # noqa: ARG002
        """Make *stream* the library's current one, if it has such a thing."""
        return contextlib.nullcontext()

    def stream(self) -> Any:  # noqa: ANN401
        """A new stream of the library's own, on its current device."""
        raise NotImplementedError

    def array(self) -> Any:  # noqa: ANN401
        """An array of SIZE bytes, to be written to; or to be read into."""
        raise NotImplementedError

    def write(self, array: Any, value: int, stream: ExternalStream) -> Any:  # noqa: ANN401
        """Write *value* into all of *array*, on *stream*; the array that has it."""
        raise NotImplementedError

    def read(self, view: Any, target: Any, stream: ExternalStream) -> Any:  # noqa: ANN401
        """Copy what the library's *view* holds into its own *target*, on *stream*; the array that has it."""
        raise NotImplementedError

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":  # noqa: ANN401
        """What is in the library's own *target*, when everything is done."""
        raise NotImplementedError


class Cupy(Library):
    """CuPy."""

    name = "cupy"
    title = "CuPy"

    def __init__(self) -> None:
        """Import it."""
        self._cupy = cupy = importlib.import_module("cupy")
        self.routes = {
            "cupy.asarray": lambda array, _: cupy.asarray(array),
            "cupy.from_dlpack": lambda array, _: cupy.from_dlpack(array),
        }

    def current(self, stream: ExternalStream) -> contextlib.AbstractContextManager[object]:
        """Entered."""
        return interop.use(stream, "cupy")

    def stream(self) -> Any:  # noqa: ANN401
        """Non-blocking."""
        return self._cupy.cuda.Stream(non_blocking=True)

    def array(self) -> Any:  # noqa: ANN401
        """Zeros."""
        return self._cupy.zeros(SIZE, "u1")

    def write(self, array: Any, value: int, stream: ExternalStream) -> Any:  # noqa: ANN401
        """Fill."""
        with self.current(stream):
            array.fill(value)
        return array

    def read(self, view: Any, target: Any, stream: ExternalStream) -> Any:  # noqa: ANN401
        """Copy."""
        with self.current(stream):
            self._cupy.copyto(target, view.view(target.dtype))  # cuda.core's buffers have bytes with a sign
        return target

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":  # noqa: ANN401
        """Copied to the host."""
        return np.asarray(target.get())


class Torch(Library):
    """PyTorch."""

    name = "torch"
    title = "PyTorch"

    def __init__(self) -> None:
        """Import it."""
        self._torch = torch = importlib.import_module("torch")
        self.routes = {
            "torch.as_tensor": lambda array, _: torch.as_tensor(array, device="cuda"),
            "torch.from_dlpack": lambda array, _: torch.from_dlpack(array),
        }

    def current(self, stream: ExternalStream) -> contextlib.AbstractContextManager[object]:
        """Entered."""
        return interop.use(stream, "torch")

    def stream(self) -> Any:  # noqa: ANN401
        """Non-blocking, of PyTorch's pool."""
        return self._torch.cuda.Stream(self._torch.cuda.current_device())

    def array(self) -> Any:  # noqa: ANN401
        """Zeros."""
        return self._torch.zeros(SIZE, dtype=self._torch.uint8, device="cuda")

    def write(self, array: Any, value: int, stream: ExternalStream) -> Any:  # noqa: ANN401
        """Fill."""
        with self.current(stream):
            array.fill_(value)
        return array

    def read(self, view: Any, target: Any, stream: ExternalStream) -> Any:  # noqa: ANN401
        """Copy."""
        with self.current(stream):
            target.copy_(view)
        return target

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":  # noqa: ANN401
        """Copied to the host."""
        return np.asarray(target.cpu().numpy())


class Numba(Library):
    """Numba, whose arrays are bound to no stream."""

    name = "numba"
    title = "Numba"

    def __init__(self) -> None:
        """Import it, and compile two kernels."""
        self._cuda = cuda = importlib.import_module("numba.cuda")
        self.routes = {
            "numba.cuda.as_cuda_array": lambda array, _: cuda.as_cuda_array(array),
            "Numba kernel argument": lambda array, _: array,
        }

        @cuda.jit  # type: ignore[untyped-decorator]
        def fill(target: Any, value: Any) -> None:  # noqa: ANN401
            i = cuda.grid(1)
            if i < target.size:
                target[i] = value

        @cuda.jit  # type: ignore[untyped-decorator]
        def copy(source: Any, target: Any) -> None:  # noqa: ANN401
            i = cuda.grid(1)
            if i < target.size:
                target[i] = source[i]

        self._fill, self._copy = fill, copy

    def stream(self) -> Any:  # noqa: ANN401
        """Blocking: Numba makes no other."""
        self._cuda.current_context()
        return self._cuda.stream()

    def array(self) -> Any:  # noqa: ANN401
        """Zeros."""
        return self._cuda.to_device(np.zeros(SIZE, "u1"))

    def write(self, array: Any, value: int, stream: ExternalStream) -> Any:  # noqa: ANN401
        """By a kernel."""
        self._fill[SIZE // _THREADS, _THREADS, stream.to("numba")](array, value)
        return array

    def read(self, view: Any, target: Any, stream: ExternalStream) -> Any:  # noqa: ANN401
        """By a kernel."""
        self._copy[SIZE // _THREADS, _THREADS, stream.to("numba")](view, target)
        return target

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":  # noqa: ANN401
        """Copied to the host."""
        return np.asarray(target.copy_to_host())


class Jax(Library):
    """JAX: its arrays are computed from one that is handed to it, on streams of its own."""

    name = "jax"
    title = "JAX"
    immutable = True

    def __init__(self) -> None:
        """Import it, and CuPy, which writes what JAX computes from."""
        self._jax = jax = importlib.import_module("jax")
        self._cupy = Cupy()
        self._copy = jax.jit(lambda array: array + np.uint8(0))
        self.routes = {"jax.dlpack.from_dlpack": lambda array, _: jax.dlpack.from_dlpack(array)}

    def array(self) -> Any:  # noqa: ANN401
        """CuPy's: JAX writes to none."""
        return self._cupy.array()

    def write(self, array: Any, value: int, stream: ExternalStream) -> Any:  # noqa: ANN401
        """Compute a new array from one that CuPy writes on *stream*."""
        self._cupy.write(array, value, stream)
        return self._copy(interop.handoff(array, stream, producer=stream, into="jax"))

    def read(self, view: Any, target: Any, stream: ExternalStream) -> Any:  # noqa: ANN401, ARG002
        """Compute a new array from it."""
        return self._copy(view)

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":  # noqa: ANN401
        """Copied to the host."""
        return np.asarray(target)


class CudaCore(Library):
    """cuda.core: buffers of its device's memory pool, and views of other memory."""

    name = "cuda.core"
    title = "cuda.core"

    def __init__(self) -> None:
        """Import it."""
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

    def stream(self) -> Any:  # noqa: ANN401
        """Non-blocking."""
        return self._device.create_stream()

    def array(self) -> Any:  # noqa: ANN401
        """A buffer."""
        stream = self._device.create_stream()
        buffer = self._device.allocate(SIZE, stream=stream)
        stream.sync()
        return buffer

    def write(self, array: Any, value: int, stream: ExternalStream) -> Any:  # noqa: ANN401
        """Fill."""
        self._buffer(array).fill(value, stream=stream.to("cuda.core"))
        return array

    def read(self, view: Any, target: Any, stream: ExternalStream) -> Any:  # noqa: ANN401
        """Copy."""
        self._buffer(view).copy_to(target, stream=stream.to("cuda.core"))
        return target

    def _buffer(self, array: Any) -> Any:  # noqa: ANN401
        if isinstance(array, self._core.Buffer):
            return array
        return self._core.Buffer.from_handle(array.ptr, SIZE, owner=array)

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":  # noqa: ANN401
        """Copied to the host."""
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
        """Import it."""
        self._rmm = importlib.import_module("rmm")
        self._patterns: dict[int, Any] = {}
        self.routes = {}

    def stream(self) -> Any:  # noqa: ANN401
        """Non-blocking."""
        streams = importlib.import_module("rmm.pylibrmm.stream")
        return streams.Stream(flags=streams.CudaStreamFlags.NON_BLOCKING)

    def array(self) -> Any:  # noqa: ANN401
        """A buffer."""
        return self._rmm.DeviceBuffer.to_device(bytes(SIZE))

    def write(self, array: Any, value: int, stream: ExternalStream) -> Any:  # noqa: ANN401
        """Copy a pattern into it."""
        if value not in self._patterns:
            self._patterns[value] = self._rmm.DeviceBuffer.to_device(bytes([value]) * SIZE)
        array.copy_from_device(self._patterns[value], stream.to("rmm"))
        return array

    def read(self, view: Any, target: Any, stream: ExternalStream) -> Any:  # noqa: ANN401
        """Copy."""
        target.copy_from_device(view, stream.to("rmm"))
        return target

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":  # noqa: ANN401
        """Copied to the host."""
        return np.asarray(target.copy_to_host())


class _Plain(Library):
    """A library that nobody knows; CuPy stands in for its kernels."""

    made: ClassVar[type["_PlainArray"]]

    def __init__(self) -> None:
        """Import CuPy."""
        self._cupy = Cupy()
        self.routes = {}

    def array(self) -> Any:  # noqa: ANN401
        """One of its own."""
        return self.made(self._cupy.array())

    def write(self, array: Any, value: int, stream: ExternalStream) -> Any:  # noqa: ANN401
        """Fill."""
        self._cupy.write(array.memory, value, stream)
        array.stream = stream
        return array

    def read(self, view: Any, target: Any, stream: ExternalStream) -> Any:  # noqa: ANN401
        """Copy."""
        self._cupy.read(view.memory, target.memory, stream)
        return target

    def values(self, target: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":  # noqa: ANN401
        """Copied to the host."""
        return self._cupy.values(target.memory)


class _PlainArray:
    def __init__(self, memory: Any) -> None:  # noqa: ANN401
        self.memory = memory
        self.stream: ExternalStream | None = None


class _WithInterface(_PlainArray):
    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        stream = None if self.stream is None else self.stream.cuda_stream
        return {**self.memory.__cuda_array_interface__, "stream": stream}


class _WithDlpack(_PlainArray):
    def __dlpack__(self, *, stream: int | None = None, **how: Any) -> object:  # noqa: ANN401
        if stream != -1 and self.stream is not None:
            interop.as_stream(stream or 1).wait_stream(self.stream)
        return self.memory.__dlpack__(stream=-1, **how)

    def __dlpack_device__(self) -> Any:  # noqa: ANN401
        return self.memory.__dlpack_device__()


class PlainInterface(_Plain):
    """An object that has ``__cuda_array_interface__``, which states its stream, and nothing else."""

    name = "__cuda_array_interface__"
    title = "a plain array interface"
    made = _WithInterface


class PlainDlpack(_Plain):
    """An object that has ``__dlpack__``, which orders who asks, and nothing else."""

    name = "__dlpack__"
    title = "plain DLPack"
    made = _WithDlpack


LIBRARIES: Final[dict[str, type[Library]]] = {
    kind.name: kind for kind in (Cupy, Numba, Torch, Jax, CudaCore, Rmm, PlainInterface, PlainDlpack)
}
