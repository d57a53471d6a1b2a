"""The command ``python -m interop matrix``: the matrix as a table for the terminal."""

import json
import sys

from interop._show import plain
from interop._show.progress import progress
from interop.errors import LibraryNotFoundError, NoDeviceError
from interop.matrix import NONE, ORDERED, OURS, WHEN, measure

_CAPTION = (
    "inside: handed over inside the producer's `with stream:` block. after: after the block.\n"
    "back: the consumer writes in place, and the producer reads."
)


def main(*, as_json: bool, only: list[str] | None) -> int:
    """Print the table, or its rows as JSON. Returns the exit status: 0 if all cases through interop were ordered."""
    try:
        rows = measure(only, lambda ways: progress(ways, "handing arrays over"))
    except (NoDeviceError, LibraryNotFoundError, ValueError) as error:
        why = f"the matrix needs a GPU and real libraries: {error}" if isinstance(error, NoDeviceError) else str(error)
        print(why, file=sys.stderr)
        return 2
    print(json.dumps(rows, indent=2) if as_json else _table(rows))
    return 0 if all(row[when] in (ORDERED, NONE) for row in rows if row["route"] in OURS for when in WHEN) else 1


def _table(rows: list[dict[str, str]]) -> str:
    """A row for each route. Narrow columns fold their text; nothing is cut off."""
    cells = [
        (
            row["producer"],
            row["consumer"],
            row["route"].removeprefix("interop."),
            *(row[when].replace(": ", ":\n") for when in WHEN),
        )
        for row in rows
    ]
    return f"{plain.table(cells, ('from', 'to', 'by', *WHEN))}\n\n{_CAPTION}"
