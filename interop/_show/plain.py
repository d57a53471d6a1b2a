"""Tables as plain text, for terminals."""

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Final

_FALLBACK: Final = (120, 24)
"""Columns and lines where there is no terminal."""
_GAP: Final = "  "
_ASCII: Final = str.maketrans({"→": "->", "…": "...", "─": "-"})


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = (), *, numbers: int = 0) -> str:
    """A table at most as wide as the terminal, or as ``COLUMNS`` says: cells that are too long are folded.

    Characters that standard output cannot take are replaced.

    Args:
        rows: the cells, of one line or more.
        head: the names of the columns, if they have any.
        numbers: so many columns, the last ones, are aligned on the right.
    """
    cells = [[_printable(cell).splitlines() or [""] for cell in row] for row in ([head] if head else []) + list(rows)]
    widths = [max(max(map(len, lines)) for lines in column) for column in zip(*cells, strict=True)]
    most = shutil.get_terminal_size(_FALLBACK).columns - len(_GAP) * (len(widths) - 1)
    cap = max(widths, default=0)
    while cap > 1 and sum(min(width, cap) for width in widths) > most:
        cap -= 1
    widths = [min(width, cap) for width in widths]
    left = len(widths) - numbers
    shown = []
    for row in cells:
        folded = [_folded(lines, width) for lines, width in zip(row, widths, strict=True)]
        for number in range(max(map(len, folded))):
            line = [lines[number] if number < len(lines) else "" for lines in folded]
            aligned = [
                text.ljust(width) if column < left else text.rjust(width)
                for column, (text, width) in enumerate(zip(line, widths, strict=True))
            ]
            shown.append(_GAP.join(aligned).rstrip())
        if head and row is cells[0]:
            shown.append(_printable("─" * (sum(widths) + len(_GAP) * (len(widths) - 1))))
    return "\n".join(shown)


def _folded(lines: Iterable[str], width: int) -> list[str]:
    return [part for line in lines for part in ([line] if len(line) <= width else textwrap.wrap(line, width))]


def _printable(text: str) -> str:
    """*text* as standard output can show it."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    return text
