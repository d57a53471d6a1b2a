"""What an access is, and whose stream makes it."""

import enum
import threading
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from interop._order.clocks import StreamKind

OBSERVED: Final = {"cupy": "cupy", "numba": "numba.cuda.cudadrv.driver", "torch": "torch"}
"""The libraries whose waits between streams are seen, by the module that is imported when the library is."""

SEEN: Final = object()
"""The owner of a stream at a bare address that an observed library used: its waits are seen."""


class Kind(enum.IntEnum):
    """What an access does. Work that is ordered after one access need not be compared with earlier, lower kinds."""

    READ = 1
    MAYBE = 2
    """It reads, and may write: nothing says which."""
    WRITE = 3

    @property
    def verb(self) -> str:
        """What the access does, in words."""
        return _VERBS[self]


_VERBS: Final = {Kind.READ: "reads", Kind.MAYBE: "reads and may write", Kind.WRITE: "writes"}


@dataclass(frozen=True, slots=True)
class Party:
    """One access.

    Attributes:
        by: the work that makes the access, such as ``numba kernel 'fill'``.
        stream: the stream of that work, in words.
        kind: what the access does to the array.
        array: the array, in words.
        where: ``file:line`` of the user's code that submitted the work.
    """

    by: str
    stream: str
    kind: Kind
    array: str
    where: str

    def __str__(self) -> str:
        """The work and its place, in one line."""
        return f"{self.by} on {self.stream} ({self.where})"


@dataclass(eq=False, slots=True)
class KnownStream:
    """A stream that the history knows.

    Attributes:
        key: unique for the life of the process, unlike the address.
        context: the key of the stream's context.
        kind: how the stream behaves towards the legacy stream.
        label: the stream's name in reports.
        identity: tells the stream from all others that exist at the same time.
        expression: what :func:`interop.as_stream` takes for the stream, in its own thread, if no variable holds it.
        place: the address. The next stream that is made there has the same *place*. None for a default stream.
        thread: the thread that a per-thread default stream ends with; None for other streams.
        uncertainty: why waits of the stream, or of the host for the stream, may be out of sight; empty if none can be.
    """

    key: Hashable
    context: Hashable
    kind: StreamKind
    label: str
    identity: tuple[object, ...]
    expression: str
    place: Hashable = None
    thread: threading.Thread | None = None
    uncertainty: str = ""
