"""The desk of a process: who answers for what it has shared, and notices when the process at the other end dies.

There is one thread, which runs while something is shared or received, and half a second longer. It knows sockets and
processes, and nothing of CUDA: what an array needs at its end is in ``ends``.

The consumer's process connects to the socket that the token names, says which lease it claims, and keeps the connection
for as long as it uses the array. The kernel closes it when the process dies. So the other side knows at once. But the
memory is not free before the process is gone with its CUDA contexts, which is a little later.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from interop._between import peers
from interop._cuda import Cuda
from interop._safety import forks
from interop.errors import InvalidTokenError, ProcessDiedError

if TYPE_CHECKING:
    import selectors
    import socket

NAME_BYTES: Final = 16
"""The length of a lease's name. Who has not seen the token cannot guess it."""
_DIGEST_BYTES: Final = 32
_CLAIM_BYTES: Final = NAME_BYTES + _DIGEST_BYTES
_CLAIM_TIME: Final = 5.0
"""Seconds in which who has connected must say what it claims."""
_MOST_CLAIMS: Final = 64
"""The most connections that have not said yet what they claim."""
_READ: Final = 1  # selectors.EVENT_READ
_PAUSE: Final = 0.1
_SHORT_PAUSE: Final = 0.005
"""Seconds between two looks at the clock, and at what is about to end."""
_LINGER: Final = 0.5
"""Seconds for which the thread waits for the next lease."""

GRANTED, BACK, UNUSED = b"G", b"B", b"U"
_REFUSALS: Final = {
    b"?": "its lease is over: it was given back, was revoked, or was not used in time; or it is of another program",
    b"F": "it is not the one that was made: it was changed on its way",
    b"S": "another process, or one of another user, answers where it points to",
    b"T": "it was used before: one token is for one consumer. Share the array once for each",
}


def refusal(word: bytes) -> InvalidTokenError:
    """The error for what the producer's process has answered."""
    return InvalidTokenError(f"the token cannot be used: {_REFUSALS.get(word, _REFUSALS[b'?'])}")


class End(Protocol):
    """What the producer's process does at the end of a lease."""

    def give_back(self) -> None:
        """The consumer has recorded its event: order the way back."""

    def is_ordered(self) -> bool:
        """Whether that is done."""

    def is_done(self) -> bool:
        """Whether the device has passed the consumer's event."""


class Lease:
    """What the producer's process has shared by one token.

    Attributes:
        name: what the consumer claims.
        digest: of the token.
        expires: when it ends if nobody has claimed it, by ``time.monotonic``.
        end: what to do at the end; None after it.
        outcome: how it has ended: ``"returned"``, ``"revoked"``, ``"expired"`` or ``"lost"``; empty before.
    """

    def __init__(self, name: bytes, digest: bytes, expires: float, end: End) -> None:
        self.name = name
        self.digest = digest
        self.expires = expires
        self.end: End | None = end
        self.outcome = ""
        self.peer: tuple[int, int] | None = None  # of the consumer, once it is claimed
        self.is_back = False
        self.is_cut = False  # from the consumer's process, which has not ended yet
        self.connection: socket.socket | None = None


class Loan:
    """What the consumer's process has received by one token.

    Attributes:
        lost: whether the producer's process has died before the array was given back.
    """

    def __init__(self, connection: "socket.socket") -> None:
        self.lost = False
        self.is_back = False
        self.connection = connection

    def say(self, word: bytes) -> None:
        """Tell the producer's process. Any thread may call this, with any lock held."""
        self.is_back = True
        with contextlib.suppress(OSError):  # the producer's process is gone
            self.connection.send(word)


class Desk:
    """The leases and loans of one process."""

    def __init__(self, cuda: Cuda) -> None:
        self.lock = forks.lock()
        self.leases: dict[bytes, Lease] = {}
        self.loans: set[Loan] = set()
        self._cuda = cuda
        self._claims: dict[socket.socket, float] = {}
        self._listener: socket.socket | None = None
        self._selector: selectors.BaseSelector | None = None
        self._thread: threading.Thread | None = None
        self._address = ""
        forks.in_child(self, Desk._was_forked)

    def _was_forked(self) -> None:
        """Close the connections, which are the parent's, and forget what it has shared."""
        forks.never_free((self.leases, self.loans))
        self.close()

    def close(self) -> None:
        """Close everything, and say nothing: what a process does that is killed."""
        sockets = [lease.connection for lease in self.leases.values()] + [loan.connection for loan in self.loans]
        self.leases, self.loans = {}, set()
        self._shut(*(one for one in sockets if one is not None))

    def _shut(self, *sockets: "socket.socket") -> None:
        for one in (*sockets, *self._claims, self._listener):
            if one is not None:
                one.close()
        if self._selector is not None:
            self._selector.close()
        self._claims, self._listener, self._selector, self._thread = {}, None, None, None

    # -- the thread ------------------------------------------------------------------------------------------------

    def _start(self) -> "selectors.BaseSelector":
        """Start the thread, if it does not run. The lock is held."""
        if self._selector is None:
            import selectors  # noqa: PLC0415  (only who shares needs it)

            self._selector = selectors.DefaultSelector()
            self._thread = threading.Thread(target=self._run, args=(self._selector,), name="interop", daemon=True)
            self._thread.start()
        return self._selector

    def _run(self, selector: "selectors.BaseSelector") -> None:
        pause, idle_since = 0.0, time.monotonic()
        while True:
            try:
                ready = selector.select(pause)
            except (OSError, ValueError, RuntimeError):  # it was closed
                return
            with self.lock:
                if self._selector is not selector:
                    return
                for key, _ in ready:
                    key.data()
                pause = self._look()
                if self.leases or self.loans:
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > _LINGER:
                    self._shut()
                    return

    def poll(self) -> None:
        """Do at once what the thread would do a moment later."""
        with self.lock:
            if self._selector is not None:
                for key, _ in self._selector.select(0):
                    key.data()
                self._look()

    def _watch(self, connection: "socket.socket", then: Callable[[], None]) -> None:
        connection.settimeout(0)
        self._start().register(connection, _READ, then)

    def _drop(self, connection: "socket.socket | None") -> None:
        if connection is not None:
            if self._selector is not None:
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(connection)
            connection.close()

    def _look(self) -> float:
        """Do what is due; the seconds until the next look."""
        now, pause = time.monotonic(), _PAUSE
        for connection in [one for one, since in self._claims.items() if now - since > _CLAIM_TIME]:
            del self._claims[connection]
            self._drop(connection)
        for lease in list(self.leases.values()):
            if lease.peer is None:
                if lease.expires < now:
                    self.finish(lease, "expired")
            elif lease.is_back and lease.end is not None and lease.end.is_done():
                self.finish(lease, "returned")
            elif lease.is_cut and peers.has_ended(self._cuda, *lease.peer):
                self.finish(lease, "lost")
            elif lease.is_back or lease.is_cut:
                pause = _SHORT_PAUSE
        return pause

    # -- the producer's side ---------------------------------------------------------------------------------------

    def address(self) -> str:
        """Where consumers can connect from now on. The lock is held until the lease is in :attr:`leases`."""
        if self._listener is None:
            import secrets  # noqa: PLC0415  (only who shares needs it)
            import socket  # noqa: PLC0415

            self._address = f"interop-{secrets.token_hex(16)}"
            self._listener = listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(f"\0{self._address}")  # in the abstract namespace: nothing is left over in a folder
            listener.listen()
            self._watch(listener, self._accept)
        return self._address

    def _accept(self) -> None:
        listener = self._listener
        if listener is None:
            return
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        _, user = peers.other_end(connection)
        if user != os.geteuid() or len(self._claims) >= _MOST_CLAIMS:
            connection.close()
            return
        self._claims[connection] = time.monotonic()
        self._watch(connection, lambda: self._hear_claim(connection))

    def _hear_claim(self, connection: "socket.socket") -> None:
        message = _received(connection, _CLAIM_BYTES + 9)  # one more, to tell what is too long
        if message is None or self._claims.pop(connection, None) is None:
            return
        if len(message) != _CLAIM_BYTES + 8:
            self._drop(connection)
            return
        lease, word = self.checked(message[:NAME_BYTES], message[NAME_BYTES:_CLAIM_BYTES])
        if word == GRANTED and lease is not None and self._selector is not None:
            pid, _ = peers.other_end(connection)
            lease.connection = connection
            lease.peer = (pid, peers.start_of(self._cuda, pid, int.from_bytes(message[_CLAIM_BYTES:], "little")))
            self._selector.modify(connection, _READ, lambda: self._hear(lease))
        with contextlib.suppress(OSError):
            connection.send(word)
        if word != GRANTED:
            self._drop(connection)

    def checked(self, name: bytes, digest: bytes) -> tuple[Lease | None, bytes]:
        """The lease of this name, and whether it is granted to who has a token of this digest."""
        import hmac  # noqa: PLC0415  (only who shares needs it)

        lease = self.leases.get(name)
        if lease is None:
            return None, b"?"
        if not hmac.compare_digest(lease.digest, digest):
            return lease, b"F"
        return lease, GRANTED if lease.peer is None else b"T"

    def _hear(self, lease: Lease) -> None:
        message = None if lease.connection is None else _received(lease.connection, 8)
        if message is None or lease.outcome:
            return
        if message == BACK and lease.end is not None and not lease.is_back:
            lease.end.give_back()
            lease.is_back = True
        elif message == UNUSED:
            self.finish(lease, "returned")
        elif not message:
            lease.is_cut = True
            self._drop(lease.connection)
            lease.connection = None

    def finish(self, lease: Lease, outcome: str) -> None:
        """End a lease, and let go of what it keeps."""
        with self.lock:
            self.leases.pop(lease.name, None)
            lease.outcome = lease.outcome or outcome
            lease.end = None
            self._drop(lease.connection)
            lease.connection = None

    # -- the consumer's side ---------------------------------------------------------------------------------------

    def claim(self, address: str, peer: peers.Identity, claim: bytes, start: int, timeout: float) -> Loan:
        """Connect to the process that has shared, and claim a lease.

        Args:
            address: where that process can be reached.
            peer: that process.
            claim: the lease's name, and the digest of the token.
            start: of this process.
            timeout: the most seconds to wait for its answer.

        Raises:
            InvalidTokenError: it refuses.
            ProcessDiedError: it has ended.
            TimeoutError: it does not answer.
        """
        import socket  # noqa: PLC0415  (only who receives needs it)

        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.settimeout(timeout)
            word = _answer(connection, address, peer.pid, claim + start.to_bytes(8, "little"))
            if word == GRANTED:
                loan = Loan(connection)
                with self.lock:
                    self.loans.add(loan)
                    self._watch(connection, lambda: self._hear_end(loan))
                return loan
        except TimeoutError:
            connection.close()
            message = f"process {peer.pid}, which has shared this array, has not answered for {timeout} s"
            raise TimeoutError(message) from None
        except OSError as error:
            connection.close()
            raise self._refused(peer, b"") from error
        except BaseException:
            connection.close()
            raise
        connection.close()
        raise self._refused(peer, word)

    def _refused(self, peer: peers.Identity, word: bytes) -> InvalidTokenError | ProcessDiedError:
        if not word and peers.has_ended(self._cuda, peer.pid, peer.start):
            return ProcessDiedError(
                f"process {peer.pid}, which has shared this array, has ended, and the array with it"
            )
        return refusal(word)

    def _hear_end(self, loan: Loan) -> None:
        if _received(loan.connection, 8) == b"" and loan in self.loans:
            loan.lost = not loan.is_back
            self.forget(loan)

    def forget(self, loan: Loan) -> None:
        """End a loan."""
        with self.lock:
            self.loans.discard(loan)
            self._drop(loan.connection)


def _answer(connection: "socket.socket", address: str, pid: int, claim: bytes) -> bytes:
    """Connect, claim, and return the answer, if the other end is the process *pid* of the same user."""
    connection.connect(f"\0{address}")
    if peers.other_end(connection) != (pid, os.geteuid()):
        return b"S"
    connection.send(claim)
    return connection.recv(8)


def _received(connection: "socket.socket", most: int) -> bytes | None:
    """The next message; empty at the end; None if another thread has read it."""
    try:
        return connection.recv(most)
    except BlockingIOError:
        return None
    except OSError:
        return b""


_lock: Final = forks.lock()
_desks: Final[list[Desk]] = []


def desk_of(cuda: Cuda) -> Desk:
    """The desk of the calling process."""
    with _lock:
        if cuda.simulation is not None:
            desk: Desk = cuda.simulation.processes.desk(lambda: Desk(cuda))
            return desk
        if not _desks:
            _desks.append(Desk(cuda))
        return _desks[0]
