"""The picture of a run: each library's ratio to C, the rounds of ping-pong, and growth with streams and threads."""

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from benchmarks import pingpong
from benchmarks.growth import IN_THREADS
from benchmarks.lab import LIBRARIES
from benchmarks.operations import OURS, C
from benchmarks.report import SHORT
from benchmarks.results import Results, Table

TICKS: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)

# Okabe and Ito's colours, which can be told apart with any colour vision; and a marker each, for those who print.
STYLES: Final = {
    C: ("#000000", "x"),
    OURS: ("#D55E00", "o"),
    "cuda.core": ("#009E73", "s"),
    "CuPy": ("#56B4E9", "^"),
    "torch": ("#CC79A7", "D"),
    "Numba": ("#E69F00", "v"),
    "cuda.bindings": ("#0072B2", "P"),
}
# A ring around the others: interop's values are often those of another library.
RING: Final[dict[str, Any]] = {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 2, "zorder": 3}


def draw(results: Results, path: Path) -> None:
    """Write an SVG file; the same bytes for the same results."""
    table = Table(results.rows)
    with mpl.rc_context({"svg.hashsalt": "interop", "font.size": 9, "axes.axisbelow": True}):
        figure = Figure(figsize=(11, 8), layout="constrained")
        FigureCanvasSVG(figure)
        top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(5, 4))[:, 0]
        calls, rounds = top.subplots(1, 2, width_ratios=(5, 3))
        _calls(calls, table)
        _ping_pong(rounds, results)
        streams, threads, arrays = bottom.subplots(1, 3)
        _growth(streams, results, "wait_stream, of many streams", "wait_stream: streams waited for")
        _growth(threads, results, IN_THREADS, "wait_stream: threads at once")
        threads.set_ylabel("microseconds by the clock,\ndivided by all calls of all threads")
        _growth(arrays, results, "borrow, of many arrays", "borrow: arrays")
        machine = results.machine
        figure.suptitle(f"{machine.get('gpu')}, {machine.get('cpu')}, {machine.get('date')}")
        figure.savefig(path, format="svg", metadata={"Date": None})


def _calls(axes: Axes, table: Table) -> None:
    places = range(len(SHORT))
    for label in (OURS, *LIBRARIES):
        colour, marker = STYLES[label]
        found = [(place, row) for place, name in enumerate(SHORT) if (row := table.get(name, label))]
        ratios = [(place, ratio) for place, row in found if (ratio := table.ratio(row))]
        if ratios:
            middle = [ratio.median for _, ratio in ratios]
            error = [[r.median - r.low for _, r in ratios], [r.high - r.median for _, r in ratios]]
            at = [place for place, _ in ratios]
            look = RING if label == OURS else {"markersize": 7, "alpha": 0.9}
            axes.errorbar(middle, at, xerr=error, fmt=marker, color=colour, label=label, **look)
    axes.axvline(1, color=STYLES[C][0], linewidth=1, marker=STYLES[C][1], label=C)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("times what the same CUDA calls take from C (median, middle half)")
    axes.set_yticks(places, [name.replace(", ", ",\n") for name in SHORT])
    axes.set_ylim(len(SHORT) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower center", bbox_to_anchor=(0.45, 1), ncols=7, frameon=False, columnspacing=1, handletextpad=0)


def _ping_pong(axes: Axes, results: Results) -> None:
    game = " <-> ".join(pingpong.GAMES[0])
    table = Table(results.rows)
    found = [(label, row) for label in pingpong.WAYS if (row := table.get(game, label))]
    for place, (label, row) in enumerate(found):
        took = table.ns(row)
        colour = STYLES[OURS][0] if label.startswith(OURS) else "#999999"
        error = [[(took.median - took.low) / 1e3], [(took.high - took.median) / 1e3]]
        axes.barh(place, took.median / 1e3, xerr=error, color=colour)
    axes.set_yticks(range(len(found)), [_folded(label) for label, _ in found])
    axes.invert_yaxis()
    axes.set_title(f"{game}, on two streams", fontsize="medium")
    axes.set_xlabel("microseconds a round")


def _folded(label: str) -> str:
    return label.replace(", ", ",\n").replace(" the other's ", "\nthe other's\n")


def _growth(axes: Axes, results: Results, operation: str, what: str) -> None:
    rows = [row for row in results.rows if row.operation == operation and row.ns and row.size is not None]
    table = Table(rows)
    for label in dict.fromkeys(row.label for row in rows):
        mine = [row for row in rows if row.label == label]
        colour, marker = STYLES[label]
        sizes, times = [row.size or 0 for row in mine], [table.ns(row) for row in mine]
        look = RING if label == OURS else {}
        axes.plot(sizes, [time.median / 1e3 for time in times], color=colour, marker=marker, label=label, **look)
        low, high = [time.low / 1e3 for time in times], [time.high / 1e3 for time in times]
        axes.fill_between(sizes, low, high, color=colour, alpha=0.3, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(what)
    axes.set_ylabel("microseconds a call (median, middle half)")
    axes.grid(which="both", alpha=0.3)
