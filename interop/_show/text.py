"""Text for people: how many there are of something, and a table of rich's as a string."""

import io
import shutil
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import RenderableType

_FALLBACK: Final = (120, 24)
"""Columns and lines where there is no terminal."""


def counted(number: int, one: str, many: str = "") -> str:
    """A number and what it counts: ``"1 race"``, ``"2 races"``."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def drawn(table: "RenderableType") -> str:
    """What rich prints, as wide as the terminal, or as ``COLUMNS`` says; without colours."""
    from rich.console import Console  # noqa: PLC0415  (an extra)

    file = io.StringIO()
    width = shutil.get_terminal_size(_FALLBACK).columns
    Console(file=file, width=width, color_system=None, force_jupyter=False).print(table)
    return file.getvalue()
