"""The picture of a timeline, by matplotlib: a lane for each stream, a bar for each span, an arrow for each wait.

A bar has a colour, a hatch and a name, so the picture can be read in greyscale and with every kind of colour vision.
matplotlib must not take a name for mathematics: hence ``parse_math=False``.
"""

import io
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from interop.errors import LibraryNotFoundError
from interop.timeline.nesting import Place
from interop.timeline.reading import Arrow, Lane, Reading, Span
from interop.timeline.selection import select

try:
    from matplotlib import patheffects
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import FancyArrowPatch, Patch, Rectangle
    from matplotlib.ticker import MaxNLocator
except ModuleNotFoundError as error:
    message = "the picture of a timeline needs matplotlib: pip install matplotlib"
    raise LibraryNotFoundError(message, name="matplotlib") from error

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

# The palette of Okabe and Ito (https://jfly.uni-koeln.de/color/), ordered so that neighbours differ in brightness too.
_COLOURS: Final = ("#56b4e9", "#d55e00", "#f0e442", "#0072b2", "#e69f00", "#009e73", "#cc79a7")
_HATCHES: Final = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "++++", "oo", "||||")
_STYLED: Final = 40
"""So many names have their own look and a line in the legend. No two of them look alike."""
_PLAIN: Final[dict[str, Any]] = {"facecolor": "white", "hatch": ""}
"""The look of all other names."""
_SHORT: Final[dict[str, Any]] = {"facecolor": "0.6", "hatch": ""}
"""The look of the short spans of a large timeline."""
_LONGEST: Final = 36
"""The most letters of a name that are shown; two thirds of that for a stream."""
_LINES: Final[dict[str, Any]] = {"wait": "-", "event": (0, (4, 2)), "hand-over": (0, (1, 1.2))}
_MARKERS: Final = {"wait": "o", "event": "s", "hand-over": "D"}
_KINDS: Final = {"wait": "waits for", "event": "waits for an event", "hand-over": "is handed an array"}
_MANY: Final = 30
"""If there are more arrows, they are drawn small."""

_WIDTH: Final = 9.0
_DPI: Final = 110
_ROW: Final = 0.55
"""The height of a row, in inches."""
_BAR: Final = 0.32
"""Half the height of a lane, in lanes."""
_LETTER: Final = 0.075
"""The width of a letter in a bar, in inches."""


def png(reading: Reading) -> bytes:
    """The picture as a PNG."""
    file = io.BytesIO()
    draw(reading).savefig(file, format="png", dpi=_DPI)
    return file.getvalue()


def draw(reading: Reading) -> Figure:
    """Draw what can be seen of *reading*. The picture says what is left out."""
    lanes, short, arrows, left_out = select(reading)
    notes = reading.notes + left_out
    positions = [*(span.end for span in reading.spans), *(max(arrow[3:5]) for arrow in reading.arrows)]
    end = max(positions, default=0.0) or 1.0
    names = list(dict.fromkeys(span.name for span in sorted(reading.spans, key=lambda span: (span.start, -span.end))))
    styles = {
        name: {"facecolor": _COLOURS[i % len(_COLOURS)], "hatch": _HATCHES[i % len(_HATCHES)]}
        for i, name in enumerate(names[:_STYLED])
    }
    entries: list[tuple[Artist, str]] = [(_box(style), _short(name)) for name, style in styles.items()]
    if len(names) > _STYLED:
        entries.append((_box(_PLAIN), f"and {len(names) - _STYLED} more"))
    if short >= 0:
        entries.append((_box(_SHORT), "short spans"))
    entries += [(_line(kind), _KINDS[kind]) for kind in dict.fromkeys(arrow.kind for arrow in reading.arrows)]
    columns = max(1, int(_WIDTH / (0.6 + _LETTER * max((len(label) for _, label in entries), default=0))))
    most = 1 + max((place.row for found in lanes.values() for _, place in found), default=0)
    height = 1.25 + 0.17 * math.ceil(len(entries) / columns) + 0.18 * len(notes)
    height += _ROW * max(len(lanes), 1) * (1 + most) / 2
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    axes.set_xlim(-0.01 * end, 1.01 * end)
    axes.set_ylim(len(lanes) - 0.45, -0.55)
    axes.set_yticks(range(len(lanes)), [_label(lane) for lane in lanes], parse_math=False)
    axes.tick_params(axis="y", length=0, labelsize=8.5)
    axes.grid(visible=True, axis="x", color="0.85", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    if reading.unit == "ms":
        axes.set_xlabel("milliseconds")
    else:
        axes.set_xlabel("steps of the simulator: the order, not the time")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title("SIMULATED", loc="right", fontsize=9, fontweight="bold")
    for lane, found in lanes.items():
        _draw_lane(axes, lane, found, styles, short, end)
    for arrow in arrows:
        _draw_arrow(axes, arrow, size=0.5 if len(arrows) > _MANY else 1.0)
    if entries:
        _draw_legend(figure, entries, columns)
    if not lanes:
        axes.text(0.5, 0.5, "nothing was recorded", transform=axes.transAxes, ha="center", va="center", color="0.4")
    if notes:
        figure.supxlabel("\n".join(notes), x=0.01, ha="left", fontsize=8, color="0.35")
    return figure


def _short(text: str, longest: int = _LONGEST) -> str:
    """*text* on one line. A long text has an ellipsis, not at its end, where names differ most often."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest * 2 // 3 - 1]}…{line[-longest // 3 :]}"


def _label(lane: Lane) -> str:
    longest = _LONGEST * 2 // 3
    return f"{_short(lane.library, longest) or 'stream'}\n{_short(lane.name, longest)}, device {lane.device}"


def _draw_lane(
    axes: "Axes",
    lane: Lane,
    spans: list[tuple[Span, Place]],
    styles: dict[str, dict[str, Any]],
    short: float,
    end: float,
) -> None:
    axes.axhspan(lane.number - _BAR, lane.number + _BAR, color="0.95", zorder=0)
    levels = [0] * (1 + max((place.row for _, place in spans), default=0))
    for _, (row, depth) in spans:
        levels[row] = max(levels[row], 1 + depth)
    grey: defaultdict[Place, list[tuple[float, float]]] = defaultdict(list)
    for span, place in spans:
        length = max(span.end - span.start, 0.0)
        if span.end - span.start <= short:
            grey[place].append((span.start, length))
            continue
        bottom, height, step = _extent(lane, place, levels)
        style = styles.get(span.name, _PLAIN)
        box = Rectangle(
            (span.start, bottom), length, height, edgecolor="black", linewidth=0.8, zorder=2 + place.depth, **style
        )
        axes.add_patch(box)
        label = _short(span.name)
        if length / end * 0.78 * _WIDTH > _LETTER * len(label):
            axes.text(
                span.start + length / 2,
                bottom + step / 2,
                label,
                ha="center",
                va="center",
                fontsize=8,
                zorder=8,
                parse_math=False,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.2},
            )
    for place, ranges in grey.items():
        bottom, height, _ = _extent(lane, place, levels)
        axes.broken_barh(ranges, (bottom, height), edgecolor="0.6", linewidth=0.4, zorder=2 + place.depth, **_SHORT)
    if gaps := list(_gaps([span for span, _ in spans])):
        starts, stops = zip(*gaps, strict=True)
        middle = [lane.number] * len(gaps)
        axes.hlines(middle, starts, stops, color="0.45", linewidth=1.0, linestyle=":", zorder=1)


def _extent(lane: Lane, place: Place, levels: list[int]) -> tuple[float, float, float]:
    """The bottom of a box, its height, and the height of the part of it that no inner span covers."""
    # The rows of a lane lie below each other. A span inside another one fills the lower part of it.
    row = 2 * _BAR / len(levels)
    step = row / levels[place.row]
    height = step * (levels[place.row] - place.depth)
    return lane.number - _BAR + row * (place.row + 1) - height, height, step


def _gaps(spans: list[Span]) -> Iterator[tuple[float, float]]:
    """The times between two spans of a lane in which no span was open."""
    reached = math.inf
    for span in sorted(spans, key=lambda span: span.start):
        if span.start > reached:
            yield reached, span.start
        reached = span.end if reached == math.inf else max(reached, span.end)


def _draw_arrow(axes: "Axes", arrow: Arrow, size: float) -> None:
    down = 1 if arrow.consumer.number > arrow.producer.number else -1
    start = (arrow.recorded, arrow.producer.number + down * _BAR)
    stop = (arrow.waited, arrow.consumer.number - down * _BAR)
    halo = [patheffects.withStroke(linewidth=3.5 * size, foreground="white")]
    axes.add_patch(
        FancyArrowPatch(
            start,
            stop,
            arrowstyle="-|>",
            mutation_scale=11 * size,
            shrinkA=0,
            shrinkB=0,
            linewidth=1.3 * size,
            linestyle=_LINES[arrow.kind],
            color="black",
            zorder=6,
            path_effects=halo,
        )
    )
    axes.plot(*start, marker=_MARKERS[arrow.kind], markersize=4 * size, color="black", zorder=7, path_effects=halo)


def _box(style: dict[str, Any]) -> Patch:
    return Patch(edgecolor="black", linewidth=0.8, **style)


def _line(kind: str) -> Line2D:
    style: dict[str, Any] = {"linestyle": _LINES[kind], "marker": _MARKERS[kind], "markersize": 4, "markevery": [0]}
    return Line2D([], [], color="black", linewidth=1.3, **style)


def _draw_legend(figure: Figure, entries: list[tuple["Artist", str]], columns: int) -> None:
    handles, labels = zip(*entries, strict=True)
    legend = figure.legend(
        handles=handles,
        # The labels are set below: here, matplotlib 3.8 leaves out labels that begin with an underscore.
        labels=["…"] * len(labels),
        loc="outside upper left",
        ncols=min(columns, len(entries)),
        fontsize=8,
        frameon=False,
        handlelength=2.4,
    )
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set(text=label, parse_math=False)
