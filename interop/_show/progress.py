"""How far a long command is, on a terminal."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def progress(parts: Sequence[T], what: str) -> Iterable[T]:
    """The *parts*, one after the other, with a bar on standard error that is gone at the end. Only on a terminal.

    The bar is drawn between two parts: no thread of its own disturbs what is measured.
    """
    console = Console(stderr=True)
    return track(parts, what, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal)
