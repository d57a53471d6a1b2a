"""Which file of the package imports which, and which part of the package may import which.

Imports inside functions, and for type checkers only, count too. Modules that are loaded by name at run time do not
count: the adapters, and the modules that ``interop`` loads on demand and, for type checkers, imports ``as`` themselves.
"""

import ast
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[1] / "interop"

FLOORS: Final[tuple[dict[str, str], ...]] = (
    {
        "testing": "proofs of order, gates",
        "matrix": "every pair, measured",
        "demo": "two libraries",
        "pytest_plugin": "marks, fixtures",
        "__main__": "the commands",
    },
    {"__init__": "the public names"},
    {
        "ledger": "finds missing waits",
        "ordering": "check()",
        "processes": "share, receive",
        "arrays": "handoff, borrow",
        "jit": "jax_call()",
        "timeline": "what ran when",
        "diagnosis": "doctor()",
    },
    {"_between": "tokens, leases"},
    {"current": "use()", "_arrays": "reads, wraps, keeps"},
    {"event": "Event, as_event", "stream": "ExternalStream, as_stream"},
    {"_core": "what both are made of"},
    {"adapters": "one file a library", "sim": "CUDA without a GPU"},
    {"_cuda": "calls cuda.bindings", "_order": "clocks, watchers"},
    {"_show": "text, HTML", "errors": "all errors", "_safety": "forks, signals", "_native": "the extension in C"},
)
"""The parts and their purposes, by floors from the top. A part imports parts on lower floors, or left of it, only."""

ORDER: Final = [name for floor in reversed(FLOORS) for name in floor]
"""The parts in order: each may import those before it."""


def module_name(path: Path) -> str:
    """``interop/_core/stream.py`` is ``interop._core.stream``."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES: Final = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@functools.cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """The imports of a file: each ``module.name``, and whether it is imported when the file is loaded."""
    found: list[tuple[str, bool]] = []
    pending: list[tuple[ast.AST, bool]] = [(ast.parse(path.read_text()), True)]
    while pending:
        node, loading = pending.pop()
        if isinstance(node, ast.Import):
            found += ((alias.name, loading) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names = (alias.name for alias in node.names if alias.asname != alias.name)
            found += ((f"{node.module}.{name}", loading) for name in names)
        for child in ast.iter_child_nodes(node):
            late = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            late |= isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and child in node.body
            pending.append((child, loading and not late))
    return found


def target(name: str) -> str:
    """The module of interop that contains an imported name; empty if no module does."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def part(module: str) -> str:
    """The part of the package that a module belongs to."""
    return [*module.split("."), "__init__"][1]


def arrows() -> dict[tuple[str, str], bool]:
    """The pairs (importing part, imported part), and whether the import comes when the part is loaded."""
    found: dict[tuple[str, str], bool] = {}
    for module, path in MODULES.items():
        for name, loading in imports(path):
            pair = part(module), part(target(name))
            if target(name) and pair[0] != pair[1]:
                found[pair] = found.get(pair, False) or loading
    return found


def reachable(start: str, graph: Mapping[str, set[str]]) -> set[str]:
    """All nodes that can be reached from *start* in one or more steps."""
    found: set[str] = set()
    pending = [*graph.get(start, ())]
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += graph.get(node, ())
    return found
