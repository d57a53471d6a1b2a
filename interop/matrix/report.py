"""The command ``python -m interop matrix``: the matrix as a table for the terminal."""

import json

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from interop._show.progress import progress
from interop.errors import LibraryNotFoundError, NoDeviceError
from interop.matrix import BLOCKED, NONE, ORDERED, OURS, WHEN, measure

_OUTCOME = len("ValueError")
"""The width of the column of an outcome. "error: ValueError" takes two lines, which leaves room for names."""


def main(*, as_json: bool, only: list[str] | None, console: Console | None = None) -> int:
    """Print the table, or its rows as JSON. Returns the exit status: 0 if all cases through interop were ordered."""
    console = console or Console(highlight=False)
    try:
        rows = measure(only, lambda ways: progress(ways, "handing arrays over"))
    except (NoDeviceError, LibraryNotFoundError, ValueError) as error:
        why = f"the matrix needs a GPU and real libraries: {error}" if isinstance(error, NoDeviceError) else str(error)
        Console(stderr=True, highlight=False).print(why, soft_wrap=True, markup=False)
        return 2
    if as_json:
        console.print_json(json.dumps(rows))
    else:
        console.print(_table(rows))
    return 0 if all(row[when] in (ORDERED, NONE) for row in rows if row["route"] in OURS for when in WHEN) else 1


def _table(rows: list[dict[str, str]]) -> Table:
    """A row for each route. Narrow columns fold their text; nothing is cut off."""
    caption = (
        "inside: handed over inside the producer's `with stream:` block. after: after the block. back: the consumer "
        "writes in place, and the producer reads."
    )
    table = Table(
        title="Hand-overs of arrays", caption=caption, caption_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    for head in ("from", "to", "by"):
        table.add_column(head, overflow="fold")
    for head in WHEN:
        table.add_column(head, overflow="fold", min_width=len(ORDERED), max_width=_OUTCOME)
    for row in rows:
        route = row["route"].removeprefix("interop.")
        table.add_row(row["producer"], row["consumer"], route, *(_coloured(row[when]) for when in WHEN))
    return table


def _coloured(outcome: str) -> str:
    colour = {ORDERED: "green", BLOCKED: "yellow", NONE: "dim"}.get(outcome, "red")
    return f"[{colour}]{outcome}[/{colour}]"
