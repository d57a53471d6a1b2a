"""Arrays, handed from one stream and library to another: in order, on the device, without a copy.

Two things are kept apart. First the order: the consumer's stream is made to wait for the producer's, by an event. Then
the conversion, of metadata only: the consumer's library is given a holder that says that there is nothing to wait for.
The holder is what the new array keeps alive. When the last array over it goes, the way back is ordered too, and only
then the source is let go: so a memory pool cannot give the block to somebody else while the consumer still works on it.

That is done for PyTorch's tensors too, and not by ``Tensor.record_stream``: the tensor itself is kept until the
consumer is done, so its block never comes back to PyTorch's pool before, and then without an event of the pool's own.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from interop import _cudart, _watch
from interop._block import block
from interop._handles import described
from interop._handover import Handover, converted, live
from interop._held import held
from interop._loans import Loan, loan_of, loans, remember
from interop._memory import CUDA, by_dlpack, by_interface, stated_stream
from interop._native import native, why_not
from interop._switching import streams_in_use
from interop.adapters import adapter_named, adapters_of
from interop.adapters.base import Adapter
from interop.errors import (
    DeviceMismatchError,
    InvalidArrayError,
    NotSupportedError,
    ProducerUnknownError,
)
from interop.event import is_binding
from interop.stream import ExternalStream, as_stream

if TYPE_CHECKING:
    from interop._tensor import Tensor


def hold(stream: object, *objects: object) -> None:
    """Keep objects alive until the work submitted to a stream so far is done; returns at once.

    They are let go by later calls of interop's array functions, or by :func:`release`; at the end of the process, the
    device is waited for. No host callback is used.

    Args:
        stream: anything that :func:`interop.as_stream` takes. If it captures a graph, the objects are kept until the
            capture has ended; the launches of the graph need them kept alive by you.
        objects: what its work uses.

    Raises:
        InvalidStreamError: *stream* is no stream.
    """
    consumer = as_stream(stream)
    consumer.is_capturing()  # so that a stream that cannot be used here is an error here
    held.give_back(None, consumer, objects)


def release() -> int:
    """Let go of what :func:`hold`, and arrays that were handed over, kept for the device, as far as it is done.

    Returns:
        How many are still kept.
    """
    return held.release()


def handoff(array: Any, consumer: object, *, producer: object = None, into: str | None = None) -> Any:  # noqa: ANN401
    """Hand an array to a stream, and to a library: the same memory, in order. Blocks nothing, copies nothing.

    All work that is later submitted to *consumer* sees what was submitted to the producer's stream before the call. The
    array that is returned keeps *array* alive. When the last array over the memory goes, the producer's stream waits
    for what the consumer's was given until then, so that the memory may be written again in order; and *array* is kept
    until the consumer is done, so that a pool cannot reuse it too early, on whichever stream. (A producer that is
    known by its address only may be gone by then, and the per-thread default stream is another one in another thread:
    these are not made to wait. Say ``producer=``, with an object that keeps the stream alive, or make it wait
    yourself. Where one of the two streams captures a graph without the other when the last array goes, the order is
    made by the first of interop's array functions that is called after the capture.)

    The array that is returned may be handed on, or a part of it, and so on: then the ways back are ordered one after
    the other, when the last arrays go. (Do not store the array that is returned in an attribute of *array*, or of an
    object that is given as one of the streams: the two would keep each other alive for ever.)

    While streams capture a graph, this is captured with them; the launches of the graph need *array* kept alive by you.

    The same array, handed to the same stream and library again while the array that came of it is still there, gives
    that one again, and costs only the wait. Handed back to the stream and library that it is from, an array that came
    of a hand-over gives the one that it came of. (Both only for arrays of CuPy, Numba and PyTorch whose shape has not
    been changed meanwhile.)

    Args:
        array: an array of CuPy, Numba, PyTorch, JAX, Warp, a buffer of RMM, a view or buffer of cuda.core, or any
            object with ``__cuda_array_interface__`` or ``__dlpack__`` that keeps its memory alive.
        consumer: the stream that will use it: anything that :func:`interop.as_stream` takes. If that is an address, or
            an object that only wraps one, keep the stream alive for as long as the array that is returned; and do not
            close it meanwhile. JAX uses
            streams of its own: they wait for this one.
        producer: the stream that wrote it, likewise; one that is closed before the last array goes is not made to wait,
            though an object that is closed may only have stood for a stream that lives on. By default, the stream that
            the array was handed to, if it came of a hand-over; the current stream of its library; the stream that the
            array states. For JAX and for unknown objects that have ``__dlpack__`` only, the array is asked, and
            trusted, to order the consumer itself.
        into: import path of the library whose array to return: ``"cupy"``, ``"numba"``, ``"torch"``, ``"jax"``,
            ``"cuda.core"`` or ``"warp"``. By default the library of *consumer*, if that is a library's stream, else
            that of *array*; if neither is known, the :class:`Handover` itself.

    Raises:
        InvalidArrayError: *array* is no array on a GPU.
        ProducerUnknownError: nothing says which stream wrote it; say ``producer=``.
        NotSupportedError: the library has no such type, or cannot say that the memory is read-only.
        DeviceMismatchError: the array is on a device that the consumer's cannot reach.
        CaptureError: one of the streams captures a graph, and the other one not that.
    """
    view = None
    loan = loans.get((id(array), id(producer), id(consumer), id(into)))
    if loan is not None:
        view = loan.again(array)
    elif (loan := loan_of(array)) is not None:
        view = loan.home_again(array, producer, consumer, into)
    if view is None:
        [view], _, _ = _lend([array], as_stream(consumer), producer, into, consumer)
    elif held:
        held.poll()
    return view


@block
def borrow(
    *arrays: Any,  # noqa: ANN401
    consumer: object,
    producer: object = None,
    into: str | None = None,
) -> Iterator[Any]:
    """Lend arrays to a stream for the length of a ``with`` block: ordered there on entry, and back on exit.

    As :func:`handoff`, for several arrays at once, with one wait for each distinct producer. On exit, also by an
    exception, the producers' streams wait for what the consumer's was given in the block, by one wait for each; the
    host waits for nothing. After the block, do not use the arrays that were lent any more, nor what came of them by
    other hand-overs.

    Args:
        arrays: as for :func:`handoff`.
        consumer: as for :func:`handoff`.
        producer: of all of them; by default each array's own.
        into: as for :func:`handoff`.

    Yields:
        The array, or a tuple of them if there are several.

    Raises:
        InteropError: as :func:`handoff`. Then nothing was lent.
    """
    reader = as_stream(consumer)
    views, producers, holders = _lend(arrays, reader, producer, into, consumer, lent=True)
    ordered: set[ExternalStream] = set()

    def order_back(writer: ExternalStream) -> None:
        writer.wait_stream(reader)
        ordered.add(writer)

    with contextlib.ExitStack() as way_back:
        way_back.callback(_give_back, holders, reader, ordered)
        for writer in producers:
            way_back.callback(order_back, writer)
        yield views[0] if len(views) == 1 else tuple(views)


def _give_back(holders: list[Handover], reader: ExternalStream, ordered: set[ExternalStream]) -> None:
    """Of the holders whose way back is ordered, what is left is to keep the memory until *reader* is done.

    The others try again when they go.
    """
    if holders and not reader.capture_id():
        done = reader.record_event()
        for holder in holders:
            holder.give_back(done, ordered)


class _Lent(NamedTuple):
    """One array that is to be handed over.

    Attributes:
        array: the array.
        lender: its library's adapter; None for a library that interop does not know.
        taker: the adapter of the library whose array to return; None for the neutral holder.
        home: the array to return, if it is there already.
        tensor: the memory; None if the array goes home.
        writer: the stream that wrote it; None if the array has ordered the consumer itself.
    """

    array: Any
    lender: Adapter | None
    taker: Adapter | None
    home: Any
    tensor: "Tensor"
    writer: ExternalStream | None


def _lend(
    arrays: Sequence[Any],
    reader: ExternalStream,
    producer: object,
    into: str | None,
    consumer: object,
    *,
    lent: bool = False,
) -> tuple[list[Any], list[ExternalStream], list[Handover]]:
    """Order *reader* after what wrote the arrays; arrays over the same memory, the distinct producers, the holders.

    Only *lent*, they will be given back.
    """
    held.release(waits=False)
    takers = [_taker(array, consumer, into) for array in arrays]
    writer = None if producer is None else as_stream(producer)
    given = (producer, consumer, into)
    all_lent = [_lent(array, taker, reader, writer, given) for array, taker in zip(arrays, takers, strict=True)]
    for one in all_lent:
        if one.home is None:
            _check(one.tensor, one.taker, reader)
        if lent and one.taker is not None and one.taker.orders_itself:
            message = (
                f"{one.taker.library} works on streams of its own, which nobody can wait for on the way back: use "
                "handoff, and hand its result back"
            )
            raise NotSupportedError(message)
        if lent and one.writer is None and not (one.lender and one.lender.immutable):
            message = (
                f"{described(one.array)} orders its consumers itself, and cannot be lent: no stream of its library is "
                "known that could wait on the way back. Use handoff, and do not write to it; or say producer="
            )
            raise ProducerUnknownError(message)
    producers = list(dict.fromkeys(one.writer for one in all_lent if one.writer is not None))
    reader.wait_stream(*producers)
    views, holders = [], []
    for one in all_lent:
        view, holder = _view(one, reader, given, again=not lent)
        views.append(view)
        holders += [] if holder is None else [holder]
    for one in all_lent:
        for watcher in _watch.watchers:
            watcher.handed_over(one.array, one.tensor, one.writer, reader)
    return views, producers, holders


def _view(
    one: _Lent, reader: ExternalStream, given: tuple[object, object, object], *, again: bool
) -> tuple[Any, Handover | None]:
    """The array to return, after everything is ordered, and its new holder; to be found *again* for the same."""
    if one.home is not None:
        return one.home, None
    parent = live.at(one.tensor.address, one.writer)
    writer = _lasting(one.writer)
    if writer is None and parent is not None and parent.consumer == one.writer:
        # That is there for as long as what came of the hand-over to it, which is kept here.
        writer = None if parent.consumer.cuda_stream == _cudart.PER_THREAD else parent.consumer
    holder = Handover(one.tensor, writer, reader, states=one.taker is None, parent=parent)
    if one.taker is None:
        return holder, holder
    view = converted(holder, one.taker)
    if one.lender is not None and one.lender.has_layout and one.taker.has_layout and one.writer is not None:
        loan = Loan((one.array, view), (one.lender, one.taker), (one.writer, reader), given, one.tensor)
        remember(loan, holder, again=again)
    return view, holder


def _lasting(writer: ExternalStream | None) -> ExternalStream | None:
    """The same stream, by an object that keeps it alive; None if there is none.

    A stream that nothing keeps alive may be gone when the last array over the memory goes, and its address then crashes
    CUDA. The source is then kept until the consumer is done, which needs no stream of the producer's.
    """
    if writer is None or writer.cuda_stream == _cudart.PER_THREAD:
        return None  # the last array may go in another thread
    if writer.cuda_stream == _cudart.LEGACY:
        return writer
    in_use = next((stream for stream in streams_in_use() if stream == writer), None)
    if in_use is not None and in_use.owner is not None:
        # As its library's current stream it may be known to the library by its address only.
        return in_use
    if writer.owner is None or is_binding(writer.owner, "cudaStream_t", "CUstream"):
        return None
    if writer._adapter is not None and not writer._adapter.keeps_alive(writer.owner):
        return None
    return writer


def _taker(array: object, consumer: object, into: str | None) -> Adapter | None:
    """The adapter that makes the array to return; None for the neutral holder."""
    if into is not None:
        adapter = adapter_named(into)
        if not adapter.makes_arrays:
            message = f"{into} makes no arrays over foreign memory that interop can offer{adapter.no_arrays}"
            raise NotSupportedError(message)
        return adapter
    for candidate in (consumer, array):
        for adapter in adapters_of(candidate):
            if adapter.makes_arrays and (candidate is array or adapter.stream_handle(candidate) is not None):
                return adapter
    return None


def _check(tensor: "Tensor", adapter: Adapter | None, reader: ExternalStream) -> None:
    """Make sure that the memory can be handed over, before anything is ordered."""
    from interop._tensor import typestr_of  # noqa: PLC0415  (ctypes is slow to import)

    by_dlpack_only = typestr_of(tensor.dtype) is None or not (adapter is None or adapter.takes_array_interface)
    if by_dlpack_only and adapter is not None and not adapter.takes_dlpack:
        message = (
            f"{adapter.library} takes arrays by the array interface only, which has no name for numbers of type "
            f"{tensor.dtype}; name another library with into="
        )
        raise NotSupportedError(message)
    if by_dlpack_only and native is None:
        message = f"this goes by DLPack only, for which interop needs its extension in C, which is missing: {why_not}"
        raise NotSupportedError(message)
    if tensor.read_only and adapter is not None and not adapter.says_read_only:
        message = f"{adapter.library} cannot say that an array is read-only, and this one is; name another with into="
        raise NotSupportedError(message)
    if 0 in tensor.shape or tensor.device_id == reader.device or tensor.device_type != CUDA:
        return
    if not reader._cuda.peer_access(reader.device, tensor.device_id, tensor.address):
        message = (
            f"the array is on device {tensor.device_id}, and device {reader.device}, of {reader!r}, has no peer access "
            "to it: copy the array there first"
        )
        raise DeviceMismatchError(message)


def _lent(
    array: Any,  # noqa: ANN401
    taker: Adapter | None,
    reader: ExternalStream,
    writer: ExternalStream | None,
    given: tuple[object, object, object],
) -> _Lent:
    """Where the array's memory is, and which stream wrote it, by default *writer*. Orders nothing that is not asked."""
    loan = loan_of(array)
    if loan is not None:
        writer = writer or loan.reader
        home = loan.home(array, taker, (writer, reader), given)
        if home is not None:
            return _Lent(array, None, taker, home, loan.tensor, writer)
    if isinstance(array, Handover):
        return _Lent(array, None, taker, None, array._tensor._replace(owner=array), writer or array._consumer)
    lender = next((adapter for adapter in adapters_of(array) if adapter.is_array(array)), None)
    if lender is not None and (problem := lender.problem(array)):
        message = f"{described(array)} cannot be handed over: {problem}"
        raise InvalidArrayError(message)
    cuda = reader._cuda
    read = None if lender is not None and lender.orders_itself else by_interface(array, cuda, reader.device)
    orders_itself = read is None if lender is None else lender.orders_itself
    if read is None and not hasattr(array, "__dlpack__"):
        message = (
            "expected an array on a GPU: one of CuPy, Numba, PyTorch, JAX or Warp, or an object with "
            f"__cuda_array_interface__ or __dlpack__; got {described(array)}"
        )
        raise InvalidArrayError(message)
    tensor, interface = read or (by_dlpack(array, reader if orders_itself else None), {})
    if lender is not None and tensor.owner is array:
        tensor = tensor._replace(owner=lender.keeper(array))
    if writer is None:
        writer = _writer(array, None if orders_itself else lender, tensor, interface)
    if writer is None and not orders_itself:
        message = (
            f"nothing says which stream wrote {described(array)}: it states none, and its library has no current "
            "stream. That need not mean that it is ready. Say producer=, the stream that it was last written on"
        )
        raise ProducerUnknownError(message)
    return _Lent(array, lender, taker, None, tensor, writer)


def _writer(
    array: object, lender: Adapter | None, tensor: "Tensor", interface: dict[str, Any]
) -> ExternalStream | None:
    """The current stream of the array's library, or the one that the array states; None if nothing says."""
    if lender is not None:
        # The library's own object, and not the number that the array states: it keeps the stream alive; and CuPy states
        # the current stream of the current device, wherever the array is. On the array's device, which a default stream
        # is of.
        native_stream = lender.array_stream(array)
        if native_stream is not None:
            cuda = _cudart.active()
            with cuda.context(cuda.primary_context(tensor.device_id)):
                return as_stream(native_stream)
    return stated_stream(interface, tensor)
