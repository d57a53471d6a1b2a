"""What the modules of ``_core`` use of ``interop.stream``. It imports them, so they cannot import it."""

from collections.abc import Callable
from typing import Any, Protocol

from interop._cuda import Cuda
from interop.adapters.base import Adapter


class Stream(Protocol):
    """What these modules use of an ``ExternalStream``."""

    _adapter: Adapter | None
    _context: int
    _context_id: int
    _cuda: Cuda
    _device: int | None
    _handle: int
    owner: object

    @property
    def _needs(self) -> int: ...
    @property
    def device(self) -> int:
        """The ordinal of its device."""

    @property
    def priority(self) -> int:
        """Its priority."""

    @property
    def stream_id(self) -> int:
        """CUDA's number of the stream."""

    def _usable_context(self) -> int: ...
    def to(self, library: str) -> object:
        """The stream as an object of *library*."""


as_stream: Callable[[object], Any]
""":func:`interop.as_stream`. ``interop.stream`` sets it."""
