"""How far a long command is, on a terminal."""

import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar

T = TypeVar("T")

_ERASE: Final = "\r\x1b[K"
_BETWEEN: Final = 0.1
"""Seconds from one text to the next."""


class Line:
    """A line on standard error that says how far a command is, and is erased at the end. Only on a terminal.

    It is written by :meth:`show` alone: no thread of its own disturbs what is measured.
    """

    def __init__(self, after: float = 0.0) -> None:
        """Write nothing in the first *after* seconds."""
        is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._next = time.monotonic() + after if is_terminal else float("inf")
        self._end = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._end:
            self._write(self._end)

    def is_due(self) -> bool:
        """Whether it is time for a new text."""
        return time.monotonic() >= self._next

    def show(self, text: str) -> None:
        """Write *text*."""
        self._end = _ERASE
        self._next = time.monotonic() + _BETWEEN
        self._write(_ERASE + text)

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def progress(parts: Sequence[T], what: str) -> Iterator[T]:
    """The *parts*, one after the other, while a line on the terminal says *what* happens, and at which part."""
    with Line() as line:
        for number, part in enumerate(parts, 1):
            if line.is_due():
                line.show(f"{what}: {number} of {len(parts)}")
            yield part
