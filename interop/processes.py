"""Arrays, handed from one process to another on one machine: in order both ways, on the device, without a copy.

The producer's process calls :func:`share`, which gives a :class:`Token`. The token travels by any means: a pipe, a
queue, Dask, Ray. The consumer's process calls :func:`receive` with it.
"""

import time
from typing import Any, Final

from interop._arrays import exchange
from interop._arrays.keepalive import keepalive
from interop._arrays.limits import refusal as why_not
from interop._between import ends, memory, peers
from interop._between.desk import GRANTED, NAME_BYTES, UNUSED, Desk, Lease, desk_of, refusal
from interop._between.token import Token
from interop._show.text import described
from interop.adapters.base import Adapter
from interop.adapters.tensor import CUDA, Tensor
from interop.errors import (
    CaptureError,
    DeviceMismatchError,
    InvalidArrayError,
    InvalidTokenError,
    NotSupportedError,
)
from interop.event import Event
from interop.stream import ExternalStream, as_stream

__all__ = ["Token", "receive", "share"]


def share(
    array: Any,  # noqa: ANN401
    producer: object,
    *,
    copy: bool = False,
    timeout: float = 60.0,
) -> Token:
    """Share an array with another process of the same user on this machine. Blocks nothing, copies nothing.

    Example::

        import cupy

        with producer:
            x = cupy.ones(1 << 20)
        token = interop.share(x, producer)
        # send the token; the other process calls interop.receive(token, its_stream)
        token.revoke()  # here nobody gets it

    What the consumer's stream is given after :func:`receive` comes after what *producer* was given so far. The array is
    kept until the consumer has given it back, and until then must not be written. Before *producer* writes to it again,
    ask ``token.returned()``: when that is True, *producer* waits for the consumer's work, on the device.

    While anything is shared, a thread of this process answers for it.

    Args:
        array: as for :func:`handoff`. Its memory must be of CuPy's default pool, PyTorch's default allocator, Numba,
            RMM's default or cudaMalloc.
        producer: the stream that wrote it, of the device of the array: anything that :func:`interop.as_stream` takes.
        copy: copy the array, on *producer*, into memory that can be shared. That is for all other memory: JAX's,
            stream-ordered pools, managed and pinned memory.
        timeout: seconds after which the token is void if nobody has used it.

    Raises:
        InvalidArrayError: *array* is no array on a GPU.
        NotSupportedError: its memory has no handle for other processes. The message says why; see *copy*.
        DeviceMismatchError: *producer* is a stream of another device.
        CaptureError: *producer* captures a graph.
        ValueError: *timeout* is no number of seconds.
    """
    keepalive.poll()
    stream = as_stream(producer)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
        message = f"timeout is a number of seconds, from 0; got {timeout!r}"
        raise ValueError(message)
    _refuse_capturing(stream, "share")
    cuda = stream._cuda
    if cuda.simulation is not None:
        tensor, handle, offset = cuda.simulation.processes.lend(array)
    else:
        tensor, handle, offset = _lent(array, stream, copy=copy)
    ready, done = Event(interprocess=True), Event(interprocess=True, device=tensor.device_id)
    stream.record_event(ready)
    import secrets  # noqa: PLC0415  (only who shares needs it)

    name = secrets.token_bytes(NAME_BYTES)
    handles = ready.ipc_handle(), done.ipc_handle()
    device = memory.device_uuid(cuda, tensor.device_id)
    layout = tuple(tensor.shape), tensor.strides, tuple(tensor.dtype), tensor.read_only
    shared = ends.Shared(tensor, exchange.kept_alive(stream), stream, ready, done)
    desk = desk_of(cuda)
    with desk.lock:
        token = Token(*peers.me(cuda), desk.address(), name, device, handle, offset, *layout, *handles)
        token._lease = desk.leases[name] = Lease(name, token._digest(), time.monotonic() + timeout, shared)
    return token


def _lent(array: Any, stream: ExternalStream, *, copy: bool) -> tuple[Tensor, bytes, int]:  # noqa: ANN401
    """The memory of the array, its handle for other processes, and where the array is in it."""
    cuda = stream._cuda
    _, tensor, *_ = exchange.resolve(array, stream, stream, None, None, "allow")
    if tensor.device_type == CUDA and tensor.device_id != stream.device:
        message = f"the array is on device {tensor.device_id}, and {stream!r} on device {stream.device}"
        raise DeviceMismatchError(message)
    if 0 in tensor.shape:
        message = f"{described(array)} has no elements: there is nothing to share"
        raise InvalidArrayError(message)
    reason = memory.why_not(cuda, tensor)
    if copy:
        tensor = memory.copied(cuda, tensor, stream)
    elif reason:
        message = (
            f"{described(array)} cannot be shared: {reason}. share(..., copy=True) copies it, on the producer's stream"
        )
        raise NotSupportedError(message)
    return tensor, *memory.exported(cuda, tensor)


def receive(
    token: Token,
    consumer: object,
    *,
    into: str | None = None,
    timeout: float = 10.0,
) -> Any:  # noqa: ANN401
    """Take an array that another process has shared: the same memory, in order. Copies nothing.

    Example::

        import cupy

        with producer:
            x = cupy.ones(1 << 20)
        token = interop.share(x, producer)
        y = interop.receive(token, consumer)  # as a rule, in another process
        del y  # gives the array back, when consumer was given its work

    What *consumer* is given from now on comes after what the producer had given its stream when it shared. The host
    asks the producer's process once, and does not wait for the device.

    When the last array over the memory is freed, the array is given back: the producer's stream then waits for what
    *consumer* was given so far. A copy keeps nothing. In the process that has shared, this is :func:`handoff`.

    ``token.check()`` raises an error if the producer's process has died, and what was read is not known.

    Args:
        token: from :func:`share`.
        consumer: the stream that will use the array: anything that :func:`interop.as_stream` takes.
        into: the library of the result, as for :func:`handoff`. By default that of *consumer*; else the result is a
            :class:`Handover`.
        timeout: the most seconds to wait for an answer of the producer's process. It may be busy.

    Raises:
        InvalidTokenError: *token* was changed, was used before, was revoked, or was not used in time.
        ProcessDiedError: the process that has shared the array has ended.
        TimeoutError: it does not answer.
        NotSupportedError: *token* is of another machine or PID namespace; or *into* cannot take such an array.
        InvalidDeviceError: this process does not see the device of the array.
        DeviceMismatchError: the device of *consumer* cannot reach it.
        CaptureError: *consumer* captures a graph.

    Note:
        **kill -9.** If a process is killed while the device has work of it pending, for which a stream of the other
        process waits, that stream never goes on, nor does what waits for the whole device: end that process, too.
    """
    keepalive.poll()
    if type(token) is not Token:
        message = f"receive(token, consumer) takes a token of interop.share(); got {described(token)}"
        raise InvalidTokenError(message)
    stream = as_stream(consumer)
    _refuse_capturing(stream, "receive")
    cuda = stream._cuda
    me, peer, desk = peers.me(cuda), token._peer(), desk_of(cuda)
    if peer.host != me.host:
        message = (
            f"{token!r} is of another machine, boot or PID namespace: CUDA's handles mean nothing here. Send a copy of "
            "the array, as by UCX or NCCL"
        )
        raise NotSupportedError(message)
    adapter = exchange.into_adapter_of(into, consumer, None)
    if peer == me:
        return _at_home(token, stream, desk, adapter)
    device = memory.device_with(cuda, token._part("device"))
    reason = "" if cuda.simulation is not None else why_not(token._tensor(_ALIGNED, device, None), adapter, None)
    if reason:
        raise NotSupportedError(reason)
    claim = token._part("name") + token._digest()
    loan = desk.claim(token._part("address"), peer, claim, me.start, timeout)
    try:
        ready, done = (Event.from_ipc_handle(device, token._part(name)) for name in ("ready", "done"))
        result, holder, mapping = _taken(token, stream, ready, done, device, adapter)
        back = ends.GivingBack(loan, stream, mapping, done, device)
        ends.EndOf(holder, lambda: keepalive.put(back))
    except BaseException:
        loan.say(UNUSED)
        desk.forget(loan)
        raise
    token._loan = loan
    return result


_ALIGNED: Final = 1 << 32
"""An address as good as that at which the allocation will be."""


def _taken(
    token: Token, stream: ExternalStream, ready: Event, done: Event, device: int, adapter: Adapter | None
) -> tuple[Any, object, object]:
    """The array to return, after the consumer's stream was made to wait; its holder; and what is open until the end."""
    cuda = stream._cuda
    if cuda.simulation is not None:
        result = cuda.simulation.processes.take(token._part("memory"))
        token._check_size(result._memory.nbytes)
        stream.wait_event(ready)
        return result, result, result._memory
    mapping = memory.opened(cuda, device, token._part("memory"))
    token._check_size(mapping.size)
    tensor = token._tensor(mapping.address, device, mapping)
    exchange.check(tensor, adapter, stream, None)
    stream.wait_event(ready)
    result, holder = exchange.make((token, tensor, None, adapter, None, None), stream, ends.Holder)
    holder._returned(done)  # so that PyTorch's end, too, is one with the GIL
    return result, holder, mapping


def _at_home(token: Token, stream: ExternalStream, desk: Desk, adapter: Adapter | None) -> Any:  # noqa: ANN401
    """The array, in the process that has shared it."""
    with desk.lock:
        lease, word = desk.checked(token._part("name"), token._digest())
        if word != GRANTED or lease is None:
            raise refusal(word)
        shared: Any = lease.end
        if stream._cuda.simulation is not None:
            result = holder = stream._cuda.simulation.processes.take(token._part("memory"))
            stream.wait_event(shared.ready)
        else:
            exchange.check(shared.memory, adapter, stream, None)
            stream.wait_event(shared.ready)
            source = (token, shared.memory, None, adapter, None, None)
            result, holder = exchange.make(source, stream, ends.Holder)

        def come_back() -> None:
            shared.take_back(stream)
            lease.is_back = True

        lease.peer = token.pid, token._part("start")
        ends.EndOf(holder, come_back)
    return result


def _refuse_capturing(stream: ExternalStream, verb: str) -> None:
    if stream.is_capturing():
        message = f"{stream!r} captures a graph: {verb} before or after it. Another process cannot be part of a capture"
        raise CaptureError(message)
