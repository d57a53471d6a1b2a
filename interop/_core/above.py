"""What the modules of ``_core`` use of ``interop.stream``. It imports them, so they cannot import it."""

from collections.abc import Callable
from typing import Any, TypeAlias

Stream: TypeAlias = Any
"""An ``ExternalStream``."""

as_stream: Callable[[object], Stream]
""":func:`interop.as_stream`. ``interop.stream`` sets it."""
