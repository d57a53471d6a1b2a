"""PyTorch: a current stream a thread and device, its own stream and event types, device by device."""

from typing import Any, cast

import torch

from interop.adapters.base import LEGACY, Adapter, Ordered, Source, is_kept, keep, life_of

# What torch.cuda.default_stream() and get_stream_from_external() spell the legacy stream.
_LEGACY = 0


class TorchAdapter(Adapter):
    """torch.cuda.Stream, torch.Stream, torch.cuda.Event and torch.Event."""

    library = "torch"
    has_current_stream = True
    default_streams_have_devices = True
    streams_stay_the_same = True
    makes_arrays = True
    takes_dlpack = True
    has_layout = True

    def stream_handle(self, stream: object) -> int | None:
        """The default stream is 0, and the legacy stream: torch is built without per-thread default streams."""
        if isinstance(stream, torch.cuda.Stream):
            return int(stream.cuda_stream) or LEGACY
        if isinstance(stream, torch.Stream) and stream.device.type == "cuda":
            return int(stream.native_handle) or LEGACY  # type: ignore[attr-defined]
        return None

    def keeps_alive(self, stream: object) -> bool:
        """PyTorch's own streams are never destroyed; for one from outside, the id is its address, and nothing else."""
        return stream.stream_id != stream.cuda_stream or is_kept(stream)  # type: ignore[attr-defined]

    def life(self, stream: object) -> object | None:
        """An attribute, which torch.Stream itself cannot have.

        Before PyTorch 2.13, weak references to a torch.cuda.Stream are left dangling when it goes, and the next object
        at its address would be taken for it. https://github.com/pytorch/pytorch/pull/183403
        """
        return life_of(stream)

    def stream_device(self, stream: object) -> int | None:
        """Each device has its own default stream."""
        return int(stream.device_index)  # type: ignore[attr-defined]

    def make_stream(self, source: Source) -> object:
        """Not ``ExternalStream``: it makes a *new* stream of 0 (torch <= 2.12) and refuses 1."""
        handle = _LEGACY if source.handle == LEGACY else source.handle
        return keep(torch.cuda.get_stream_from_external(handle, torch.device("cuda", source.device)), source)

    def event_handle(self, event: object) -> int | None:
        """A torch event has no handle before it is first recorded; it says 0 then."""
        if isinstance(event, torch.cuda.Event):
            return int(event.cuda_event)
        if isinstance(event, torch.Event) and event.device.type == "cuda":
            return int(event.event_id)
        return None

    def record(self, event: object, stream: object) -> None:
        """Torch creates the event, on the stream's device."""
        event.record(stream)  # type: ignore[attr-defined]

    def is_array(self, array: object) -> bool:
        """A tensor on a GPU."""
        return isinstance(array, torch.Tensor) and array.is_cuda

    def problem(self, array: object) -> str:
        """The array interface does not mention bits that say how the memory is meant."""
        tensor = cast("torch.Tensor", array)
        if tensor.requires_grad:
            return "it requires grad, which would be lost: hand over tensor.detach()"
        if tensor.is_conj() or tensor.is_neg():
            return "it is a lazy conjugate or negative: hand over tensor.resolve_conj().resolve_neg()"
        return ""

    def array_stream(self, array: object) -> object | None:
        """PyTorch's current stream on the tensor's device."""
        return torch.cuda.current_stream(array.device)  # type: ignore[attr-defined]

    def stream_mark(self, array: object) -> object:
        """The number, device and kind: a Stream would be made anew each time."""
        return torch._C._cuda_getCurrentStream(array.get_device())  # type: ignore[attr-defined]  # noqa: SLF001

    def keeper(self, array: Any) -> object:  # noqa: ANN401
        """An alias: ``tensor.data = other`` gives the tensor itself other memory."""
        return array.detach()

    def make_array(self, memory: Any) -> object:  # noqa: ANN401
        """PyTorch never waits for a stream that is stated."""
        if hasattr(memory, "__cuda_array_interface__"):
            return torch.as_tensor(memory, device="cuda")
        return torch.utils.dlpack.from_dlpack(Ordered(memory))

    def layout(self, array: object) -> object:
        """Everything can be set in place; and a tensor that requires grad is not handed over."""
        tensor = cast("torch.Tensor", array)
        return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.requires_grad

    def usable(self) -> bool:
        """False for a CPU build, and where torch finds no GPU."""
        return torch.cuda.is_available()

    def is_set_up(self, device: int) -> bool:  # noqa: ARG002
        """Torch starts CUDA at the first question about streams."""
        return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]

    def current_stream(self) -> object:
        """Of the calling thread, on the current device."""
        return torch.cuda.current_stream()

    def before(self, stream: object) -> object:
        """The number, device and kind of the current stream."""
        # As in `enter`, what torch.cuda.current_stream() and set_stream() do, without the objects that they make: 5 us
        # of them. CUDA has been started by who made *stream*.
        return torch._C._cuda_getCurrentStream(cast("torch.cuda.Stream", stream).device_index)  # noqa: SLF001

    def enter(self, stream: object, before: object) -> None:  # noqa: ARG002
        """Set it; torch keeps no stack."""
        native = cast("torch.cuda.Stream", stream)
        _set(native.stream_id, native.device_index, native.device_type)

    def leave(self, before: object) -> None:
        """Set the previous one."""
        _set(*cast("tuple[int, int, int]", before))


def _set(number: int, index: int, kind: int) -> None:
    torch._C._cuda_setStream(stream_id=number, device_index=index, device_type=kind)  # noqa: SLF001


ADAPTER = TorchAdapter()
