"""The streams that a ledger knows, and the libraries whose waits it sees."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Protocol

from interop._order.clocks import StreamKind

OBSERVED: Final = {"cupy": "cupy", "numba": "numba.cuda.cudadrv.driver", "torch": "torch"}
"""The libraries whose waits between streams are seen, by the module that is imported when the library is."""

SEEN: Final = object()
"""The owner of a stream at a bare address that an observed library used: its waits are seen."""


class HostThread(Protocol):
    """A thread of the program, such as a :class:`threading.Thread`."""

    def __hash__(self) -> int: ...

    def is_alive(self) -> bool:
        """Whether it may make more calls."""


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
    thread: HostThread | None = None
    uncertainty: str = ""
