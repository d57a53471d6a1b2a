"""The plot of a run: the ratio of each row's time to interop's."""

from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks import handovers, pingpong
from benchmarks.lab import OURS, C
from benchmarks.report import SHORT
from benchmarks.results import Results, Table

_TICKS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)

# Okabe and Ito's colours, which can be told apart with any colour vision, and a marker each, for print.
_STYLES: Final = {
    C: ("#000000", "x"),
    "cuda.core": ("#009E73", "s"),
    "CuPy": ("#56B4E9", "^"),
    "torch": ("#CC79A7", "D"),
    "Numba": ("#E69F00", "v"),
    "cuda.bindings": ("#0072B2", "P"),
    "JAX": ("#F0E442", "p"),
    pingpong.SHARED: ("#999999", "o"),
    pingpong.HOST: ("#999999", "s"),
    pingpong.HOST_AND_CONVERT: ("#999999", "D"),
    pingpong.READS: ("#999999", "v"),
    handovers.ONE_THREAD: ("#999999", "*"),
}
_LIBRARY: Final = {label: library for library, own in handovers.OWN.items() for label in own}


def draw(results: Results, path: Path) -> None:
    """Write an SVG file; the same bytes for the same results."""
    rows = Table(results.rows)
    shown = [
        row for row in results.rows if row.operation.startswith(("handoff, ", "round, ")) or row.operation in SHORT
    ]
    places = list(dict.fromkeys(row.operation for row in shown))
    with mpl.rc_context({"svg.hashsalt": "interop", "svg.fonttype": "none", "font.size": 9, "axes.axisbelow": True}):
        figure = Figure(figsize=(9, 1.5 + 0.3 * len(places)), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        for row in shown:
            ratio = rows.ratio(row.operation, row.label, OURS)
            if ratio is None or row.label == OURS:
                continue
            label = _LIBRARY.get(row.label, row.label)
            colour, marker = _STYLES[label]
            new = label not in axes.get_legend_handles_labels()[1]
            error = [[ratio.median - ratio.low], [ratio.high - ratio.median]]
            place = places.index(row.operation)
            axes.errorbar(ratio.median, place, xerr=error, fmt=marker, color=colour, label=label if new else None)
        axes.axvline(1, color="#D55E00", linewidth=2, label=OURS)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(_TICKS))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("times what interop takes (median, middle half): to the right of the line, interop is faster")
        axes.set_yticks(range(len(places)), places)
        axes.set_ylim(max(len(places), 1) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)
        axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=4, frameon=False)
        machine = results.machine
        figure.suptitle(f"{machine.get('gpu')}, {machine.get('cpu')}, {machine.get('date')}")
        figure.savefig(path, format="svg", metadata={"Date": None})
