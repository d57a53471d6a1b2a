"""Small tables for notebooks."""

import html
from collections.abc import Iterable, Mapping


def table(title: str, rows: Mapping[str, object]) -> str:
    """A table of names and values, with a title. Names and values are escaped."""
    body = "".join(f"<tr>{_cell(name, 'th')}{_cell(value)}</tr>" for name, value in rows.items())
    return f"<table><caption><b>{html.escape(title)}</b></caption>{body}</table>"


def grid(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table with a header row. All cells are escaped."""
    head = "".join(_cell(column, "th") for column in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def lines(texts: Iterable[str]) -> str:
    """A line below the other for each text. All are escaped."""
    return "".join(f"<div>{html.escape(text)}</div>" for text in texts)


def _cell(content: object, tag: str = "td") -> str:
    text = html.escape(str(content)).replace("\n", "<br>")
    return f'<{tag} style="text-align:left; vertical-align:top">{text}</{tag}>'
