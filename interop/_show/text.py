"""Text for people: a number with its noun, and a table of rich as a string."""

import io
import shutil
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import RenderableType

_FALLBACK: Final = (120, 24)
"""Columns and lines where there is no terminal."""


def plural(number: int, one: str, many: str = "") -> str:
    """A number with its noun: ``"1 race"``, ``"2 races"``."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def render(table: "RenderableType") -> str:
    """The text that rich prints for *table*, without colours, as wide as the terminal or as ``COLUMNS`` says."""
    from rich.console import Console  # noqa: PLC0415  (an extra)

    file = io.StringIO()
    width = shutil.get_terminal_size(_FALLBACK).columns
    Console(file=file, width=width, color_system=None, force_jupyter=False).print(table)
    return file.getvalue()
