"""Arrays, handed from one stream and library to another: in order, on the device, without a copy.

Two things are kept apart. First the order: the consumer's stream is made to wait for the producer's, by an event. Then
the conversion, of metadata only: the consumer's library is given a holder that says that there is nothing to wait for.
The new array keeps the holder alive. When the last array over the memory is freed, the holder is freed, and the way
back is ordered. Only then is the source released. So no memory pool reuses the block while the consumer works on it.

That is done for PyTorch's tensors too, and not by ``Tensor.record_stream``: the tensor itself is kept until the
consumer is done, so its block never comes back to PyTorch's pool before, and then without an event of the pool's own.
"""

from types import TracebackType
from typing import TYPE_CHECKING, Any

from interop._arrays.exchange import make, refuse_to_borrow, resolve
from interop._arrays.keepalive import keepalive
from interop._arrays.limits import ReadOnly
from interop._core.habits import refuse_swapped, stream_beside
from interop._safety.blocks import Block
from interop._show.text import described
from interop.errors import InvalidArrayError, InvalidStreamError
from interop.stream import ExternalStream, as_stream

if TYPE_CHECKING:
    from interop._arrays.handover import Handover


def hold(stream: object, *objects: object) -> None:
    """Keep objects alive until the work submitted to a stream so far is done; returns at once.

    Example::

        staging = bytearray(1 << 20)  # memory that producer's work still reads
        interop.hold(producer, staging)
        del staging

    Later calls of interop's array functions release them, and so does :func:`release`. The end of the process waits for
    the device. No host callback is used.

    Args:
        stream: anything that :func:`interop.as_stream` takes. If it captures a graph, the objects are kept until the
            capture has ended; the launches of the graph need them kept alive by you.
        objects: what its work uses.

    Raises:
        InvalidStreamError: *stream* is no stream.
        InvalidArrayError: there are no *objects*.
    """
    if not objects:
        message = f"hold(stream, *objects) was given nothing to keep alive; got {described(stream)} only"
        raise InvalidArrayError(message)
    consumer: ExternalStream = stream_beside(objects[-1], stream, "hold(stream, *objects)")
    consumer.is_capturing()  # so that a stream that cannot be used here is an error here
    keepalive.release_later(consumer, objects)


def release() -> int:
    """Release the objects that :func:`hold` and hand-overs keep for the device, if the device is done with them.

    Example::

        producer.synchronize()
        interop.release()  # releases what was held for producer

    Returns:
        How many are still kept.
    """
    return keepalive.release()


def handoff(
    array: Any,  # noqa: ANN401
    consumer: object,
    *,
    producer: object = None,
    into: str | None = None,
    read_only: ReadOnly = None,
) -> Any:  # noqa: ANN401
    """Hand an array to a stream, and to a library: the same memory, in order. Blocks nothing, copies nothing.

    Example::

        import cupy, torch

        with producer:
            x = cupy.ones(1 << 20)
        y = interop.handoff(x, consumer, producer=producer, into="torch")  # a torch.Tensor
        with consumer:
            y *= 2  # after CuPy's ones

    What *consumer* is given from now on comes after what *producer* was given so far. When the last array over the
    memory is freed, *producer* waits for *consumer*. *array* is kept until *consumer* is done, so no pool reuses it too
    early.

    Args:
        array: of ``"cupy"``, ``"numba"``, ``"torch"``, ``"jax"``, ``"cuda.core"``, ``"warp"`` or ``"rmm"``; or any
            object with ``__cuda_array_interface__`` or ``__dlpack__`` that keeps its memory alive.
        consumer: the stream that will use it: anything that :func:`interop.as_stream` takes.
        producer: the stream that wrote it, likewise. By default, the stream that the array was handed to, if a
            hand-over made it; the current stream of its library; the stream that the array states.
        into: the library of the result: one of these, except ``"rmm"``. By default the library of *consumer*, if that
            is a library's stream, else that of *array*; if neither is known, the result is a :class:`Handover`.
        read_only: ``"allow"`` to hand a read-only array to CuPy, Numba, PyTorch or Warp, which cannot forbid writes.

    Raises:
        InvalidArrayError: *array* is no array on a GPU.
        ProducerUnknownError: nothing says which stream wrote it; say ``producer=``.
        NotSupportedError: *into* cannot take such an array: its type, strides, dimensions, address; or it is read-only.
        DeviceMismatchError: the array is on a device that the consumer's cannot reach.
        CaptureError: one of the streams captures a graph, and the other one not that.

    Note:
        **Streams.** An address, or an object that only wraps one, keeps no stream alive: keep *consumer* alive, and do
        not close it, for as long as the result. JAX uses streams of its own, which wait for *consumer*. JAX's arrays,
        and unknown ones that have ``__dlpack__`` only, are asked, and trusted, to order the consumer themselves.

        **The way back.** *producer* is not made to wait if it may be gone when the last array is freed: if it is known
        by its address only, or its object was closed (though that may only have stood for a stream that lives on); nor
        a per-thread default stream in another thread. Give ``producer=`` as an object that keeps the stream alive, or
        make it wait yourself. The result, or a part of it, may be handed on: the ways back are ordered one after the
        other. Do not store the result in an attribute of *array* or of a stream's object: the two would keep each other
        alive for ever.

        **Loops.** If a loop keeps its arrays, hand them over once, before it, and order each round by
        ``consumer.wait_stream(producer)`` and ``producer.wait_stream(consumer)``: that costs the waits only.

        **Graphs.** While the streams capture a graph, the hand-over is captured too; for the launches of the graph,
        keep *array* alive yourself. If one of the streams captures without the other when the last array is freed, the
        way back is ordered by the first of interop's array functions that is called after the capture.

        **Read-only arrays.** With ``read_only="allow"`` nothing stops a write to the result, and a write breaks
        whatever takes the memory for constant: results of JAX that were computed long before change, or do not.
    """
    keepalive.poll()
    try:
        stream = as_stream(consumer)
    except InvalidStreamError:
        refuse_swapped(array, consumer, "handoff(array, consumer)")
        raise
    wrote = None if producer is None else as_stream(producer)
    source = resolve(array, stream, wrote, consumer, into, read_only)
    wrote = source[4]
    if wrote is not None:
        stream.wait_stream(wrote)
    return make(source, stream)[0]


class borrow(Block[Any]):  # noqa: N801  (used as a function)
    """Lend arrays to a stream for the length of a ``with`` block: ordered there on entry, and back on exit.

    Example::

        import cupy, torch

        with producer:
            x = cupy.ones(1 << 20)
        with interop.borrow(x, consumer=consumer, producer=producer, into="torch") as y:
            with consumer:
                y *= 2  # after CuPy's ones
        # from here on, producer's work comes after that

    As :func:`handoff`, for several arrays at once, with one wait for each distinct producer. On exit, also by an
    exception, the producers' streams wait for what the consumer's was given in the block, by one wait for each; the
    host waits for nothing. After the block, do not use the arrays that were lent, nor arrays that were made from
    them by other hand-overs.

    The block gives the array, or a tuple of them if there are several.

    Args:
        arrays: as for :func:`handoff`, as are *consumer*, *into* and *read_only*.
        producer: of all of them; by default each array's own.

    Raises:
        InteropError: as :func:`handoff`, or no array was given. Then nothing was lent.
    """

    _call = "borrow"

    def __init__(
        self,
        *arrays: Any,  # noqa: ANN401
        consumer: object,
        producer: object = None,
        into: str | None = None,
        read_only: ReadOnly = None,
    ) -> None:
        """Do nothing yet."""
        if not arrays:
            message = f"borrow(*arrays, consumer=...) was given no array; got consumer={described(consumer)} only"
            raise InvalidArrayError(message)
        self._arrays = arrays
        self._options = (consumer, into, read_only)
        self._producer = producer
        self._holders: list[Handover] = []
        self._producers: list[ExternalStream] = []
        self._entered = False

    def __enter__(self) -> Any:  # noqa: ANN401
        """Hand the arrays over."""
        self._entered = True
        keepalive.poll()
        consumer = stream_beside(self._arrays[0], self._options[0], "borrow(array, consumer=stream)")
        self._consumer = consumer
        producer = None if self._producer is None else as_stream(self._producer)
        sources = [resolve(array, consumer, producer, *self._options) for array in self._arrays]
        refuse_to_borrow(sources)
        if producer is None:
            producers = list(dict.fromkeys(wrote for *_, wrote, _ in sources if wrote is not None))
        else:
            producers = [producer]
        consumer.wait_stream(*producers)
        self._producers = producers
        results = []
        for source in sources:
            result, holder = make(source, consumer)
            results.append(result)
            self._holders.append(holder)
        return results[0] if len(results) == 1 else tuple(results)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Order the ways back."""
        holders, producers = self._holders, self._producers
        self._holders, self._producers = [], []
        left = producers.copy()
        try:
            _order_back(producers, self._consumer, left)
        finally:
            # What is left is to keep the memory until the consumer is done. Those whose producer does not wait yet try
            # again when they are freed.
            done = self._consumer.record_event()
            if not done._capture:
                for holder in holders:
                    if holder._producer not in left:
                        holder._returned(done)


def _order_back(producers: list[ExternalStream], consumer: ExternalStream, left: list[ExternalStream]) -> None:
    """Let each of the producers wait for the consumer, also if one cannot; those that do are taken out of *left*."""
    if producers:
        try:
            producers[0].wait_stream(consumer)
            left.remove(producers[0])
        finally:
            _order_back(producers[1:], consumer, left)
