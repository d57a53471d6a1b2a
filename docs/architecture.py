"""Draw docs/architecture.svg: which part of the package imports which. ``python -m docs.architecture``."""

import html
from pathlib import Path
from typing import Final

from docs.imports import FLOORS, ORDER, arrows, reachable

PICTURE: Final = Path(__file__).with_suffix(".svg")
WIDTH, FLOOR, BOX = 1000, 84, (176, 44)
HEAD: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" font-family="sans-serif"
  font-size="14" text-anchor="middle">
<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 8 4 0 8z" fill="#555"/></marker>
<rect width="100%" height="100%" fill="white"/>
<g fill="none" stroke="#555" marker-end="url(#head)">"""


def svg() -> str:
    """The picture. Arrows that follow from others are left out. Dashed arrows stand for late imports only."""
    places = {
        name: (WIDTH * (2 * column + 1) / (2 * len(floor)), 12 + FLOOR * row)
        for row, floor in enumerate(FLOORS)
        for column, name in enumerate(floor)
    }
    pairs = arrows()
    upwards = [pair for pair in pairs if ORDER.index(pair[0]) <= ORDER.index(pair[1])]
    graph = {name: {to for start, to in pairs if start == name and (start, to) not in upwards} for name in ORDER}
    lines = []
    for (start, to), loading in sorted(pairs.items()):
        if (start, to) not in upwards and any(to in reachable(between, graph) for between in graph[start]):
            continue
        (x, y), (to_x, to_y) = places[start], places[to]
        if y == to_y:  # on one floor
            side = BOX[0] / 2 if to_x > x else -BOX[0] / 2
            ends = f"{x + side:.0f},{y + BOX[1] / 2:.0f} {to_x - side:.0f},{to_y + BOX[1] / 2:.0f}"
        else:
            ends = f"{x:.0f},{y + BOX[1]} {to_x:.0f},{to_y}"
        style = ("" if loading else ' stroke-dasharray="4 3"') + (' stroke="red"' if (start, to) in upwards else "")
        lines.append(f'<polyline points="{ends}"{style}/>')
    boxes = []
    for name, (x, y) in places.items():
        purpose = next(floor[name] for floor in FLOORS if name in floor)
        fill = "#eee" if name.startswith("_") and name != "__init__" else "#d6e8fa"
        boxes.append(
            f'<rect x="{x - BOX[0] / 2:.0f}" y="{y}" width="{BOX[0]}" height="{BOX[1]}" rx="5" fill="{fill}"/>'
            f'<text x="{x:.0f}" y="{y + 18}" font-weight="bold">{name}</text>'
            f'<text x="{x:.0f}" y="{y + 35}" font-size="12">{html.escape(purpose)}</text>'
        )
    height = FLOOR * (len(FLOORS) - 1) + BOX[1] + 24
    return "\n".join((HEAD.format(WIDTH, height), *lines, "</g>", *boxes, "</svg>\n"))


if __name__ == "__main__":
    PICTURE.write_text(svg())
