"""The matrix of hand-overs as a picture: what :func:`interop.matrix.measure` found, default against ours."""

import io
from collections.abc import Sequence
from typing import Any, Final

from interop.errors import LibraryNotFoundError
from interop.matrix import BLOCKED, FAILED, ORDERED, OURS, RACE

try:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle
except ModuleNotFoundError as error:
    message = 'a heat map is drawn by matplotlib: pip install "cuda-stream-interop[plot]"'
    raise LibraryNotFoundError(message, name="matplotlib") from error

# From the palette of Okabe and Ito, from light to dark, with hatches: so that it holds in greyscale too.
_STYLES: Final[dict[str, dict[str, Any]]] = {
    ORDERED: {"facecolor": "#cfe8f7", "hatch": ""},
    BLOCKED: {"facecolor": "#e69f00", "hatch": "...."},
    FAILED: {"facecolor": "#999999", "hatch": "\\\\\\\\"},
    RACE: {"facecolor": "#d55e00", "hatch": "////"},
}
_NAMES: Final = {"cupy": "CuPy", "numba": "Numba", "torch": "PyTorch"}
_COLUMNS: Final = {"inside": "inside the writer's\n`with stream:`", "after": "after it"}


def png(rows: Sequence[dict[str, str]]) -> bytes:
    """The picture as a PNG."""
    file = io.BytesIO()
    draw(rows).savefig(file, format="png")
    return file.getvalue()


def draw(rows: Sequence[dict[str, str]]) -> Figure:
    """Draw the rows of :func:`interop.matrix.measure`: on the left what libraries do by default, on the right ours."""
    panels = {
        "by default": [row for row in rows if row["route"] != OURS],
        f"through {OURS}": [row for row in rows if row["route"] == OURS],
    }
    height = max(map(len, panels.values()))
    figure = Figure(figsize=(11.5, 1.4 + 0.32 * height), dpi=110)
    figure.set_layout_engine("constrained")
    for axes, (title, shown) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        axes.set_title(title, fontsize=10, fontweight="bold")
        axes.set_xlim(0, len(_COLUMNS))
        axes.set_ylim(height, 0)
        axes.set_xticks([0.5, 1.5], list(_COLUMNS.values()), fontsize=8.5)
        axes.set_yticks([i + 0.5 for i in range(len(shown))], [_label(row) for row in shown], fontsize=8.5)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        for side in ("left", "right", "top", "bottom"):
            axes.spines[side].set_visible(False)
        for y, row in enumerate(shown):
            for x, when in enumerate(_COLUMNS):
                outcome = row[when].partition(":")[0]
                axes.add_patch(Rectangle((x, y), 1, 1, edgecolor="white", linewidth=1.5, **_STYLES[outcome]))
                box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.2}
                axes.text(x + 0.5, y + 0.5, outcome, ha="center", va="center", fontsize=8.5, bbox=box)
    there = {row[when].partition(":")[0] for row in rows for when in _COLUMNS}
    handles = [
        Patch(label=outcome, edgecolor="white", **style) for outcome, style in _STYLES.items() if outcome in there
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(_STYLES), fontsize=8.5, frameon=False)
    return figure


def _label(row: dict[str, str]) -> str:
    route = _NAMES[row["consumer"]] if row["route"] == OURS else row["route"]
    return f"{_NAMES[row['producer']]} → {route}"
