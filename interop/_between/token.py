"""What travels from the producer's process to the consumer's."""

import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

from interop import _cuda
from interop._arrays.keepalive import keepalive
from interop._between import peers
from interop._between.desk import NAME_BYTES, Desk, Lease, Loan, desk_of
from interop._show.text import described
from interop.adapters.tensor import CUDA, FLOAT4_E2M1FN, DataType, Tensor
from interop.errors import InvalidTokenError, NotSupportedError, ProcessDiedError

_MOST_DIMENSIONS: Final = 64
_COUNTS: Final = 2**63
_PAUSE: Final = 0.001


def _is_text(value: object) -> bool:
    return type(value) is str and 0 < len(value) <= 200  # noqa: PLR2004


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < _COUNTS


def _is_step(value: object) -> bool:
    return type(value) is int and -_COUNTS < value < _COUNTS


def _is_handle(value: object) -> bool:
    return type(value) is bytes and len(value) == _cuda.IPC_HANDLE_BYTES


def _is_name(value: object) -> bool:
    return type(value) is bytes and len(value) == NAME_BYTES


def _all(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: type(value) is tuple and len(value) <= _MOST_DIMENSIONS and all(map(check, value))


def _is_type(value: object) -> bool:
    if type(value) is not tuple or len(value) != len(DataType._fields) or not all(map(_is_count, value)):
        return False
    code, bits, lanes = value
    return bool(code <= FLOAT4_E2M1FN and 0 < bits <= 128 and 0 < lanes <= 64)  # noqa: PLR2004


# The parts of a token, and what each can be.
_PARTS: Final[dict[str, Callable[[object], bool]]] = {
    "host": _is_text,
    "pid": _is_count,
    "start": _is_count,
    "address": _is_text,
    "name": _is_name,
    "device": _is_text,
    "memory": _is_handle,
    "offset": _is_count,
    "shape": _all(_is_count),
    "strides": lambda value: value is None or _all(_is_step)(value),
    "dtype": _is_type,
    "read_only": lambda value: type(value) is bool,
    "ready": _is_handle,
    "done": _is_handle,
}


class Token:
    """A shared array, on its way to another process: bytes, numbers and text, which can be pickled.

    Example::

        import pickle
        from interop import sim

        with sim.simulate() as gpu:
            x, stream = gpu.array([1, 2]), gpu.stream()
            token = interop.share(x, producer=stream)
            sent = pickle.dumps(token)  # by a pipe, a queue, a socket, a file
            token.revoke()  # nobody is to use it any more

    :func:`interop.share` makes it. It is for one consumer: share the array once for each. It has no address that anyone
    trusts, and no code. Who gets it can use the array if he is the same user on the same machine; nobody else can.
    """

    __slots__ = ("_lease", "_loan", "_parts")
    __module__ = "interop.processes"

    def __init__(self, *parts: object) -> None:
        """Check the form. What it says is checked by the process that has made it, when the token is used."""
        if len(parts) != len(_PARTS):
            message = f"a token has {len(_PARTS)} parts; got {len(parts)}"
            raise InvalidTokenError(message)
        for (name, check), value in zip(_PARTS.items(), parts, strict=True):
            if not check(value):
                message = f"the token cannot be used: its {name} cannot be {described(value)}"
                raise InvalidTokenError(message)
        self._parts: tuple[Any, ...] = parts
        self._lease: Lease | None = None
        self._loan: Loan | None = None
        if self.strides is not None and len(self.strides) != len(self.shape):
            message = f"the token cannot be used: it has {len(self.shape)} dimensions and {len(self.strides)} strides"
            raise InvalidTokenError(message)

    def __reduce__(self) -> tuple[type["Token"], tuple[object, ...]]:
        """The parts only, without what this process knows."""
        return Token, self._parts

    def __eq__(self, other: object) -> bool:
        """Whether the parts are equal."""
        return isinstance(other, Token) and self._parts == other._parts

    def __hash__(self) -> int:
        """Of the parts."""
        return hash(self._parts)

    def __repr__(self) -> str:
        """Shape, type, and the process that has shared it."""
        return f"<interop.Token of {self.shape} {self.dtype}, shared by process {self.pid}>"

    @property
    def shape(self) -> tuple[int, ...]:
        """As of the array."""
        shape: tuple[int, ...] = self._part("shape")
        return shape

    @property
    def strides(self) -> tuple[int, ...] | None:
        """In elements; None if C-contiguous."""
        strides: tuple[int, ...] | None = self._part("strides")
        return strides

    @property
    def dtype(self) -> DataType:
        """The type of the elements; ``str()`` of it is NumPy's name."""
        return DataType(*self._part("dtype"))

    @property
    def pid(self) -> int:
        """The process that has shared the array."""
        pid: int = self._part("pid")
        return pid

    # -- in the process that has shared it ---------------------------------------------------------------------------

    def returned(self, timeout: float | None = 0.0) -> bool:
        """Whether the array is back: the producer's stream waits for the consumer's work, and may write again.

        Example::

            from interop import sim

            with sim.simulate() as gpu:
                x, stream = gpu.array([1, 2]), gpu.stream()
                token = interop.share(x, producer=stream)
                y = interop.receive(token, stream)  # in another process, as a rule
                del y
                assert token.returned(timeout=1)

        Call it before work that writes to the array. It asks whether the consumer's *process* has given the array back,
        and never waits for the device: the stream does. True too if the token was revoked, or not used in time.

        Args:
            timeout: the most seconds to block the host; None for no limit. By default it returns at once.

        Raises:
            ProcessDiedError: the consumer's process has ended before it gave the array back. The memory is free again;
                what is in it is not known.
            NotSupportedError: this process has not shared the array.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        desk, lease = self._home()
        while not self._is_back(desk, lease):
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE)
        return True

    def _is_back(self, desk: Desk, lease: Lease | None) -> bool:
        keepalive.poll()
        desk.poll()
        if lease is None:  # it was over before this copy of the token was asked
            return True
        self.check()
        end = lease.end
        return bool(lease.outcome) or (lease.is_back and end is not None and end.is_ordered())

    def check(self) -> None:
        """Raise an error if the process at the other end has died, with the array in its hands.

        Example::

            from interop import sim

            with sim.simulate() as gpu:
                x, stream = gpu.array([1, 2]), gpu.stream()
                token = interop.share(x, producer=stream)
                y = interop.receive(token, stream)
                token.check()  # fine

        It works where :func:`share` was called, and where :func:`receive` was. Call it where results count: after the
        consumer has read the array, and before its results are used.

        Raises:
            ProcessDiedError: it has died. What the memory holds is not known.
        """
        if self._lease is not None and self._lease.outcome == "lost":
            message = f"the process that has received {self!r} has ended: the memory is free, and holds anything"
            raise ProcessDiedError(message)
        if self._loan is not None and self._loan.lost:
            message = f"process {self.pid} has ended before {self!r} was given back: what was read is not known"
            raise ProcessDiedError(message)

    def revoke(self) -> bool:
        """Let nobody use the token any more. False if it was used already: then the consumer gives the array back.

        Example::

            from interop import sim

            with sim.simulate() as gpu:
                token = interop.share(gpu.array([1, 2]), producer=gpu.stream())
                assert token.revoke()

        Raises:
            NotSupportedError: this process has not shared the array.
        """
        desk, lease = self._home()
        if lease is None:
            return False
        with desk.lock:
            desk.poll()
            if lease.peer is None and not lease.outcome:
                desk.finish(lease, "revoked")
        return lease.outcome == "revoked"

    # -- inside ------------------------------------------------------------------------------------------------------

    def _part(self, name: str) -> Any:  # noqa: ANN401
        return self._parts[_PLACES[name]]

    def _home(self) -> tuple[Desk, Lease | None]:
        cuda = _cuda.active()
        if self._peer() != peers.me(cuda):
            message = f"{self!r} can be asked and revoked in that process only"
            raise NotSupportedError(message)
        desk = desk_of(cuda)
        return desk, self._lease or desk.leases.get(self._part("name"))

    def _peer(self) -> peers.Identity:
        return peers.Identity(self._part("host"), self._part("pid"), self._part("start"))

    def _digest(self) -> bytes:
        import hashlib  # noqa: PLC0415  (only who shares needs it)

        return hashlib.sha256(repr(self._parts).encode()).digest()

    def _tensor(self, base: int, device: int, owner: object) -> Tensor:
        """The array, in an allocation that starts at *base*."""
        address = base + self._part("offset")
        return Tensor(address, self.shape, self.strides, self.dtype, CUDA, device, self._part("read_only"), owner)

    def _check_size(self, size: int) -> None:
        """Refuse what is not within an allocation of *size* bytes."""
        first, stop = self._tensor(0, 0, None).extent()
        if not 0 <= first <= stop <= size:
            message = f"the token cannot be used: it is about bytes {first} to {stop} of an allocation of {size}"
            raise InvalidTokenError(message)

    def __init_subclass__(cls) -> NoReturn:
        """Refuse: what is pickled is this class."""
        message = "interop.Token cannot be subclassed"
        raise TypeError(message)


_PLACES: Final = {name: place for place, name in enumerate(_PARTS)}
