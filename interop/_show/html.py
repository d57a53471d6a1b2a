"""Small tables for notebooks."""

import html
import itertools
from collections.abc import Iterable, Mapping, Sequence


def table(title: str, rows: Mapping[str, object]) -> str:
    """A table of names and values, with a title. Names and values are escaped."""
    body = "".join(f"<tr>{_cell(name, 'th')}{_cell(value)}</tr>" for name, value in rows.items())
    return f"<table><caption><b>{html.escape(title)}</b></caption>{body}</table>"


def grid(columns: Sequence[str], rows: Iterable[Iterable[object]], *, numbers: int = 0) -> str:
    """A table with a header row; the last *numbers* columns are aligned on the right. All cells are escaped."""
    sides = ["left"] * (len(columns) - numbers) + ["right"] * numbers
    head = "".join(map(_cell, columns, itertools.repeat("th"), sides))
    body = "".join(f"<tr>{''.join(map(_cell, row, itertools.repeat('td'), sides))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def lines(texts: Iterable[str]) -> str:
    """A line below the other for each text. All are escaped."""
    return "".join(f"<div>{html.escape(text)}</div>" for text in texts)


def _cell(content: object, tag: str = "td", side: str = "left") -> str:
    text = html.escape(str(content)).replace("\n", "<br>")
    return f'<{tag} style="text-align:{side}; vertical-align:top">{text}</{tag}>'
