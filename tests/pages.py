"""The Python programs of the README and of the pages in docs/, and what runs them.

A block after ``<!-- gpu -->`` needs a GPU. A block with ``interop.sim`` brings its own simulation. All other blocks run
on a GPU and on the simulator. A block after another comment has a test of its own.

On a page, the blocks go on from each other; those with a simulation of their own go on from each other, and not from
the rest. A ``text`` block directly after a program is what the program prints.
"""

import re
from pathlib import Path
from typing import NamedTuple

from docs.update import PAGES
from interop.adapters.table import TABLE

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
_BLOCK = re.compile(
    r"(?:<!-- (?P<comment>[^\n]*) -->\n+)?^```python\n(?P<text>.*?)^```(?:\n+```text\n(?P<shown>.*?)^```)?",
    re.DOTALL | re.MULTILINE,
)


class Program(NamedTuple):
    """One block of a page."""

    text: str
    shown: str | None
    """What it prints, as the page has it."""
    for_a_gpu: bool

    @property
    def simulated(self) -> bool:
        """Whether it brings its own simulation."""
        return "interop.sim" in self.text and not self.for_a_gpu

    def run(self, names: dict[str, object]) -> None:
        """Run it, as a file that a user would write."""
        exec(compile(self.text, "train.py", "exec"), names)


def programs(page: Path) -> list[Program]:
    """The programs of a page, from top to bottom."""
    return [
        Program(found["text"], found["shown"], bool(found["comment"]))
        for found in _BLOCK.finditer(page.read_text())
        if found["comment"] in (None, "gpu")
    ]


def imported(text: str) -> list[str]:
    """The GPU libraries that a program imports."""
    known = TABLE.keys() - {"cuda.bindings"}
    imports = "\n".join(re.findall(r"^\s*(?:import|from) [^#\n]*", text, re.MULTILINE))
    return [name for name in known if re.search(rf"\b{re.escape(name)}\b", imports)]


def libraries(page: Path) -> list[str]:
    """The libraries that the programs of a page for a GPU import."""
    return imported("\n".join(program.text for program in programs(page) if not program.simulated))


def on_the_simulator(page: Path) -> list[Program]:
    """The programs that run on the simulator, and bring none."""
    return [program for program in programs(page) if not program.for_a_gpu and not program.simulated]


def on_a_gpu(page: Path) -> list[Program]:
    """The programs that run on a GPU, one after the other."""
    return [program for program in programs(page) if not program.simulated]


def name(page: Path) -> str:
    """The page, in the name of a test."""
    return str(page.relative_to(ROOT).with_suffix(""))


PAGES_WITH_PROGRAMS = [page for page in PAGES if page != README and programs(page)]
