"""PyTorch: a current stream per thread and device, and default streams that know their device."""

from typing import Any, cast

import torch

from interop.adapters.base import (
    CAPSULES,
    LEGACY,
    Adapter,
    Source,
    Takes,
    capsule,
    exchanges,
    is_kept,
    keep,
    life_of,
    make_tensor,
    read_tensor,
)
from interop.adapters.tensor import BFLOAT16, COMPLEX32, CUDA, FLOAT8, TYPES, Tensor

# The legacy stream, to torch.cuda.default_stream() and get_stream_from_external().
_LEGACY = 0

_TYPES = {  # the types that this version of PyTorch has
    getattr(torch, str(dtype)): dtype
    for dtype in (*TYPES.values(), BFLOAT16, COMPLEX32, *FLOAT8)
    if hasattr(torch, str(dtype))
}

_EXCHANGES = exchanges(torch.Tensor)

_pool_streams: dict[tuple[int, int], torch.cuda.Stream] = {}
"""The streams of PyTorch's pool that have been current, by device and id. PyTorch never destroys them."""


class TorchAdapter(Adapter):
    """torch.cuda.Stream, torch.Stream, torch.cuda.Event and torch.Event."""

    library = "torch"
    streams_stay_the_same = True
    needs_device = False
    takes = Takes(negative_strides=False, types=frozenset(_TYPES.values()))

    def stream_handle(self, stream: object) -> int | None:
        """0 is the legacy stream: PyTorch is built without per-thread default streams."""
        if isinstance(stream, torch.cuda.Stream):
            return int(stream.cuda_stream) or LEGACY
        if isinstance(stream, torch.Stream) and stream.device.type == "cuda":
            return int(stream.native_handle) or LEGACY  # type: ignore[attr-defined]
        return None

    def keeps_alive(self, stream: object) -> bool:
        """True for a stream of PyTorch's pool, which lives for ever; the id of a foreign stream is its address."""
        return stream.stream_id != stream.cuda_stream or is_kept(stream)  # type: ignore[attr-defined]

    def life(self, stream: object) -> object | None:
        """An attribute of a torch.cuda.Stream; a torch.Stream can have none.

        Before PyTorch 2.13, a weak reference to a torch.cuda.Stream dangles after the stream is destroyed, and returns
        the next object at that address. https://github.com/pytorch/pytorch/pull/183403
        """
        return life_of(stream)

    def stream_device(self, stream: object) -> int | None:
        """Each device has a default stream of its own."""
        return int(stream.device_index)  # type: ignore[attr-defined]

    def make_stream(self, source: Source) -> object:
        """Not by ``ExternalStream``, which creates a *new* stream for 0 (torch <= 2.12) and refuses 1."""
        handle = _LEGACY if source.handle == LEGACY else source.handle
        return keep(torch.cuda.get_stream_from_external(handle, torch.device("cuda", source.device)), source)

    def event_handle(self, event: object) -> int | None:
        """0 before the first record, in which PyTorch creates the event."""
        if isinstance(event, torch.cuda.Event):
            return int(event.cuda_event)
        if isinstance(event, torch.Event) and event.device.type == "cuda":
            return int(event.event_id)
        return None

    def record(self, event: object, stream: object) -> None:
        """PyTorch creates the event on the device of the stream."""
        event.record(stream)  # type: ignore[attr-defined]

    def is_array(self, array: object) -> bool:
        """A tensor on a GPU."""
        return isinstance(array, torch.Tensor) and array.is_cuda

    def problem(self, array: object) -> str:
        """For tensors whose state the array interface cannot express."""
        tensor = cast("torch.Tensor", array)
        if tensor.requires_grad:
            return "it requires grad, which would be lost: hand over tensor.detach()"
        if tensor.is_conj() or tensor.is_neg():
            return "it is a lazy conjugate or negative: hand over tensor.resolve_conj().resolve_neg()"
        return ""

    def array_stream(self, array: Any) -> object | None:  # noqa: ANN401
        """PyTorch's current stream on the tensor's device. Each stream of the pool is one object, made once."""
        number, device, kind = torch._C._cuda_getCurrentStream(array.get_device())  # noqa: SLF001
        known = _pool_streams.get((device, number))
        if known is None:
            known = torch.cuda.Stream(  # type: ignore[no-untyped-call]
                stream_id=number, device_index=device, device_type=kind
            )
            if known.stream_id != known.cuda_stream:  # else it is a foreign stream, whose id is its address
                _pool_streams[device, number] = known
        return known

    def read(self, array: Any) -> Tensor | None:  # noqa: ANN401
        """For plain tensors. The owner is an alias, because ``tensor.data = other`` gives a tensor other memory."""
        if type(array) is not torch.Tensor or not array.is_cuda or self.problem(array):
            return None
        return described(array)

    def mark_of(self, array: Any) -> int:  # noqa: ANN401
        """The address of the storage, which parts share. An attribute of the tensor would be copied and saved."""
        return int(array.untyped_storage()._cdata)  # noqa: SLF001

    def make_array(self, tensor: Tensor, holder: Any) -> object:  # noqa: ANN401
        """In C, or by a capsule, which every version takes. ``as_tensor`` of an interface leaks its numbers."""
        if _EXCHANGES and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            return make_tensor(torch.Tensor, tensor, holder)
        if CAPSULES:  # which initialises CUDA
            return torch._C._from_dlpack(capsule(tensor, holder, versioned=False))  # noqa: SLF001
        return torch.as_tensor(holder, device=torch.device("cuda", tensor.device_id))

    def usable(self) -> bool:
        """Whether PyTorch finds a GPU; False for a CPU build."""
        return torch.cuda.is_available()

    def is_set_up(self, device: int) -> bool:  # noqa: ARG002
        """PyTorch initialises CUDA at the first question about streams."""
        return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]

    def current_stream(self) -> object:
        """The stream of the calling thread and the current device."""
        return torch.cuda.current_stream()

    def current_handle(self, device: int | None) -> int:
        """In C, without an object. 0 is the legacy stream."""
        number = torch._C._cuda_getDevice() if device is None else device  # noqa: SLF001
        return torch._C._cuda_getCurrentRawStream(number) or LEGACY  # noqa: SLF001

    def before(self, stream: object) -> object:
        """The id, device and type of the current stream."""
        # As torch.cuda.current_stream() does, but without making an object, which takes 5 us; likewise in `enter`. CUDA
        # is initialised: *stream* exists.
        return torch._C._cuda_getCurrentStream(cast("torch.cuda.Stream", stream).device_index)  # noqa: SLF001

    def enter(self, stream: object, before: object) -> None:  # noqa: ARG002
        """Set *stream*; PyTorch has no stack."""
        native = cast("torch.cuda.Stream", stream)
        _set(native.stream_id, native.device_index, native.device_type)

    def leave(self, before: object) -> None:
        """Set the previous stream."""
        _set(*cast("tuple[int, int, int]", before))


def described(array: torch.Tensor) -> Tensor | None:
    """Describe a strided tensor; None for a type that only PyTorch has, and for other layouts."""
    if _EXCHANGES:
        try:
            tensor: Tensor = read_tensor(array.detach(), False)  # noqa: FBT003
        except (BufferError, RuntimeError):
            return None
        return tensor
    dtype = _TYPES.get(array.dtype)
    if dtype is None or array.layout is not torch.strided:
        return None
    strides = None if array.is_contiguous() else array.stride()
    device = array.get_device()
    return Tensor(array.data_ptr(), tuple(array.shape), strides, dtype, CUDA, device, False, array.detach())  # noqa: FBT003


def _set(number: int, index: int, kind: int) -> None:
    torch._C._cuda_setStream(stream_id=number, device_index=index, device_type=kind)  # noqa: SLF001


ADAPTER = TorchAdapter()
