"""The matrix as a table, for the terminal and for a README; and the command ``python -m interop matrix``."""

import json
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from interop.errors import LibraryNotFoundError, NoDeviceError
from interop.matrix import BLOCKED, NONE, ORDERED, OURS, RACE, WHEN, measure
from interop.matrix.libraries import LIBRARIES

_OUTCOME = len("ValueError")
"""The width of the column of an outcome. "error: ValueError" takes two lines, which leaves room for names."""


def main(*, as_json: bool, only: list[str] | None, console: Console | None = None) -> int:
    """Print the table, or its rows as JSON. Returns the exit status: 0 if all cases through interop were ordered."""
    console = console or Console(highlight=False)
    try:
        rows = measure(only)
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


def markdown(rows: list[dict[str, str]]) -> Iterator[str]:
    """The lines of a table in Markdown: a row for each pair, its default routes in one cell, interop's in another."""
    yield "| from → to | by default: inside the producer's `with stream:` / after it / back | by interop |"
    yield "|---|---|---|"
    pairs = dict.fromkeys((row["producer"], row["consumer"]) for row in rows)
    for producer, consumer in pairs:
        of_pair = [row for row in rows if (row["producer"], row["consumer"]) == (producer, consumer)]
        sides = [[row for row in of_pair if (row["route"] in OURS) == ours] for ours in (False, True)]
        cells = ["<br>".join(map(_shown, side)) for side in sides]
        yield f"| {LIBRARIES[producer].title} → {LIBRARIES[consumer].title} | {' | '.join(cells)} |"


def _shown(row: dict[str, str]) -> str:
    name = row["route"].removeprefix("interop.")
    outcomes = [row[when].partition(":")[0] for when in WHEN]
    if len(set(outcomes)) == 1:
        outcomes = outcomes[:1]
    said = " / ".join(f"**{outcome}**" if outcome == RACE else outcome for outcome in outcomes)
    return f"{name if ' ' in name else f'`{name}`'}: {said}"
