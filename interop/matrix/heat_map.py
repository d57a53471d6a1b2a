"""The matrix as a picture: producers by consumers; on the left by default, on the right through interop.

Every outcome has a colour, a hatch and a letter, so the picture can be read in greyscale and with every kind of colour
vision.
"""

import io
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from interop.errors import LibraryNotFoundError
from interop.matrix import BLOCKED, FAILED, NONE, ORDERED, OURS, RACE, WHEN
from interop.matrix.libraries import LIBRARIES

try:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle
except ModuleNotFoundError as error:
    message = "a heat map needs matplotlib: pip install matplotlib"
    raise LibraryNotFoundError(message, name="matplotlib") from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# From the palette of Okabe and Ito.
_STYLES: Final[dict[str, dict[str, Any]]] = {
    ORDERED: {"facecolor": "#cfe8f7", "hatch": ""},
    BLOCKED: {"facecolor": "#e69f00", "hatch": "...."},
    FAILED: {"facecolor": "#999999", "hatch": "\\\\\\\\"},
    RACE: {"facecolor": "#d55e00", "hatch": "////"},
    NONE: {"facecolor": "white", "hatch": ""},
}
_LETTERS: Final = {ORDERED: "o", BLOCKED: "B", FAILED: "e", RACE: "R", NONE: "–"}  # noqa: RUF001  (a dash, drawn)
_NAMES: Final = {ORDERED: "ordered", BLOCKED: "host blocked", FAILED: "error", RACE: "RACE", NONE: "no such case"}
_CELL: Final = 0.9
"""The part of a cell that is filled. The rest separates it from its neighbours."""
_NARROWEST: Final = 6.6
"""In inches: room for the five outcomes side by side."""
_LETTER: Final = 0.068
"""The width of a letter under the picture, in inches."""


def png(rows: Sequence[dict[str, str]]) -> bytes:
    """The picture as a PNG."""
    file = io.BytesIO()
    draw(rows).savefig(file, format="png")
    return file.getvalue()


def draw(rows: Sequence[dict[str, str]]) -> Figure:
    """Draw the rows of :func:`interop.matrix.measure`.

    A cell has a line for each route from its producer to its consumer, in the order of the rows, and a column for each
    of :data:`interop.matrix.WHEN`. The names of the routes are under the picture.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        message = "there are no rows to draw: a matrix needs two libraries, or Numba alone"
        raise ValueError(message)
    producers, consumers = (
        [name for name in LIBRARIES if any(row[role] == name for row in rows)] for role in ("producer", "consumer")
    )
    panels = {
        "by default": [row for row in rows if row["route"] not in OURS],
        "through interop": [row for row in rows if row["route"] in OURS],
    }
    width = max(2.4 + 1.7 * len(consumers), _NARROWEST)
    told = [line for text in _texts(panels, consumers) for line in textwrap.wrap(text, int(width / _LETTER))]
    figure = Figure(figsize=(width, 1.35 + 0.62 * len(producers) + 0.15 * len(told)), dpi=110)
    figure.set_layout_engine("constrained")
    for axes, (title, shown) in zip(figure.subplots(1, 2, sharey=True), panels.items(), strict=True):
        axes.set_title(title, fontsize=10, fontweight="bold")
        axes.set_xlim(0, len(consumers))
        axes.set_ylim(len(producers), 0)
        axes.set_xticks([i + 0.5 for i in range(len(consumers))], [f"to {_title(name)}" for name in consumers])
        axes.set_yticks([i + 0.5 for i in range(len(producers))], [f"from {_title(name)}" for name in producers])
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelsize=8.5)
        for side in ("left", "right", "top", "bottom"):
            axes.spines[side].set_visible(False)
        for y, producer in enumerate(producers):
            for x, consumer in enumerate(consumers):
                _draw_cell(
                    axes, x, y, [row for row in shown if (row["producer"], row["consumer"]) == (producer, consumer)]
                )
    there = {_outcome(row, when) for row in rows for when in WHEN}
    handles = [
        Patch(edgecolor="white" if style["hatch"] else "0.8", label=f"{_LETTERS[outcome]}  {_NAMES[outcome]}", **style)
        for outcome, style in _STYLES.items()
        if outcome in there
    ]
    figure.legend(
        handles=handles,
        title="\n".join(told),
        loc="outside lower center",
        ncols=len(_STYLES),
        fontsize=8.5,
        title_fontsize=8.5,
        frameon=False,
    )
    return figure


def _texts(panels: dict[str, list[dict[str, str]]], consumers: list[str]) -> Iterator[str]:
    yield "columns of a cell: inside the producer's `with stream:`, after it, written in place and given back"
    theirs, ours = panels.values()
    ways = [
        f"to {_title(name)} by {routes}"
        for name in consumers
        if (routes := _routes(row for row in theirs if row["consumer"] == name))
    ]
    yield f"lines of a cell: by default, {', '.join(ways)}; through interop, {_routes(ours)}"


def _routes(rows: Iterable[dict[str, str]]) -> str:
    return " and ".join(dict.fromkeys(row["route"] for row in rows))


def _title(name: str) -> str:
    return LIBRARIES[name].title


def _outcome(row: dict[str, str], when: str) -> str:
    return row[when].partition(":")[0]


def _draw_cell(axes: "Axes", x: int, y: int, routes: list[dict[str, str]]) -> None:
    width, height = _CELL / len(WHEN), _CELL / max(len(routes), 1)
    for i, row in enumerate(routes):
        for j, when in enumerate(WHEN):
            left, top = x + (1 - _CELL) / 2 + j * width, y + (1 - _CELL) / 2 + i * height
            outcome = _outcome(row, when)
            axes.add_patch(Rectangle((left, top), width, height, edgecolor="white", linewidth=1, **_STYLES[outcome]))
            box = (
                {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
                if _STYLES[outcome]["hatch"]
                else None
            )
            middle = (left + width / 2, top + height / 2)
            axes.text(*middle, _LETTERS[outcome], ha="center", va="center", fontsize=6.5, bbox=box)
