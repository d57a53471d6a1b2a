"""The holder of memory that was handed over: what the consumer's array keeps alive."""

from typing import TYPE_CHECKING, Final

from interop import _cuda
from interop._arrays.keepalive import keepalive
from interop._arrays.limits import refused_to_strangers
from interop._native import native
from interop._show.text import described
from interop.adapters import dlpack
from interop.adapters.tensor import CUDA_HOST, TYPESTRS
from interop.errors import InvalidStreamError, NotSupportedError
from interop.stream import ExternalStream, new_stream

if TYPE_CHECKING or native is None:
    from interop._arrays.holder import HandoverFields, count_open, find
else:
    HandoverFields, count_open, find = native.HandoverFields, native.count_handovers, native.find_handover
    native.prepare_handovers(keepalive.ended.append, keepalive.poll)
    native.prepare_keepalive(keepalive.ended.append)

__all__ = ["Handover", "count_open", "find"]

_NO_ORDER: Final = -1
"""DLPack's word, in place of a stream, for: order nothing."""


class Handover(HandoverFields):
    """The same memory, for the consumer's library: what the consumer's array keeps alive.

    Example::

        import cupy

        class Frame:  # of a library that interop does not know
            def __init__(self):
                self.memory = cupy.ones(4)

            @property
            def __cuda_array_interface__(self):
                return self.memory.__cuda_array_interface__

        with producer:
            frame = Frame()
        handed = interop.handoff(frame, consumer, producer=producer)  # a Handover
        x = cupy.asarray(handed)  # or any library's function that reads the CUDA Array Interface or DLPack

    :func:`handoff` returns it where no library is asked for, and none is known. ``__cuda_array_interface__`` states the
    stream that the memory is ready on, and ``__dlpack__(stream=s)`` makes the stream *s* wait for that one, on the
    device. A library that takes ``__dlpack_c_exchange_api__`` is told that stream too, as the one to work on.
    """

    __slots__ = ()

    if native is not None:
        __dlpack_c_exchange_api__ = native.exchange_api
        """DLPack's exchange in C, without a wait: its current work stream is the one that the memory is ready on.

        That is the stream of the hand-over which the thread has given last. So a call that takes several, of different
        streams, needs these ordered by you.
        """

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        """Version 3 of the CUDA Array Interface; there is none for types that it has no name for, such as bfloat16.

        https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html
        """
        tensor = self._tensor
        typestr = TYPESTRS.get(tensor.dtype)
        if typestr is None:
            message = f"the array interface has no name for numbers of type {tensor.dtype}; __dlpack__ has"
            raise AttributeError(message)
        return {
            "version": 3,
            "shape": tensor.shape,
            "typestr": typestr,
            "data": (tensor.address, tensor.read_only),
            "strides": tensor.byte_strides(),
            "stream": self._stated() if self._is_neutral else None,
        }

    def _stated(self) -> int:
        """The handle of a stream that the memory is ready on, whichever thread or device reads the number."""
        consumer = self._consumer
        if consumer.cuda_stream > _cuda.PER_THREAD or consumer.device == self._tensor.device_id:
            consumer._usable_context()  # in another thread, 2 is another stream
            return consumer.cuda_stream
        # A default stream of another device: read beside the memory, the number would mean that of the memory's device.
        if self._relay is None:
            self._relay = new_stream(self._tensor.device_id)
        self._relay.wait_stream(consumer)
        return self._relay.cuda_stream

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's type of the memory (2 is CUDA, 3 pinned, 13 managed), and the ordinal of the device."""
        return (self._tensor.device_type, self._tensor.device_id)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """A DLPack capsule over the memory. *stream* is made to wait for the consumer of this hand-over, on the device.

        When the last array over the memory is freed, the producer waits for the consumer of this hand-over, and not for
        *stream*. If *stream* is another one, make the consumer of this hand-over wait for it after its work.

        https://dmlc.github.io/dlpack/latest/python_spec.html

        Args:
            stream: the handle of the stream that will use the memory; None for the legacy default stream, like 1; 2
                for the calling thread's per-thread one; -1 to order nothing.
            max_version: the newest version of DLPack that the caller understands. Read-only memory needs 1.0.
            dl_device: None, or the device where the memory is.
            copy: None or False: the memory is never copied.

        Raises:
            BufferError: *copy* or *dl_device* asks for a copy, or the memory is read-only and *max_version* too old.
            InvalidStreamError: *stream* is 0, which DLPack forbids, or no handle.
            NotSupportedError: a stride is negative, for which PyTorch aborts the process; or interop was installed
                without its extension in C.
        """
        tensor = self._tensor
        if copy or dl_device not in (None, self.__dlpack_device__()):
            message = (
                f"{self!r} gives away its memory where it is, and no copy; {copy=} and {dl_device=} were asked for"
            )
            raise BufferError(message)
        versioned = max_version is not None and max_version[0] >= 1
        if tensor.read_only and not versioned:
            message = f"{self!r} is read-only, which DLPack can say since version 1.0, and {max_version=} was asked for"
            raise BufferError(message)
        self._refuse_strangers()
        self._order(stream)
        return dlpack.capsule(tensor, self, versioned=versioned)

    def _order(self, stream: object) -> None:
        """Make the stream that a DLPack consumer names wait for this memory's."""
        if stream == _NO_ORDER and not isinstance(stream, bool):
            return
        if stream is None:
            stream = _cuda.LEGACY
        if not isinstance(stream, int) or isinstance(stream, bool) or stream <= 0:
            message = (
                "a consumer names its stream to DLPack by its handle, None or 1 for the legacy default stream, 2 for "
                f"the per-thread one, -1 for no order, and never 0; got {described(stream)}"
            )
            raise InvalidStreamError(message)
        if native is not None and stream > _cuda.PER_THREAD and native.let_wait(stream, self._consumer):
            return
        # A default stream is one of the memory's device; where that is pinned, and so no device's, of the current one.
        of_memory = stream <= _cuda.PER_THREAD and self._tensor.device_type != CUDA_HOST
        device = self._tensor.device_id if of_memory else None
        ExternalStream(stream, device).wait_stream(self._consumer)

    def _exchanged(self) -> int:
        """The stream that the memory is ready on, for a consumer that takes it in C."""
        self._refuse_strangers()
        return self._stated()

    def _refuse_strangers(self) -> None:
        """Refuse to give away by DLPack what only libraries that interop knows can be trusted with."""
        if self._is_neutral and (reason := refused_to_strangers(self._tensor)):
            message = f"{self!r} is not given away by DLPack {reason}"
            raise NotSupportedError(message)

    def __repr__(self) -> str:
        """Shape, type, and the streams."""
        tensor = self._tensor
        return f"<interop.Handover of {tensor.shape} {tensor.dtype}, {self._producer!r} -> {self._consumer!r}>"

    def _repr_html_(self) -> str:
        """For notebooks: the same, as a table."""
        from interop._show import html  # noqa: PLC0415  (only in notebooks)

        tensor = self._tensor
        rows = {
            "shape": tensor.shape,
            "type": tensor.dtype,
            "address": f"{tensor.address:#x}{', read-only' if tensor.read_only else ''}",
            "producer": "has ordered the consumer itself, or is not kept" if self._producer is None else self._producer,
            "consumer": self._consumer,
        }
        return html.table("interop.Handover", rows)
