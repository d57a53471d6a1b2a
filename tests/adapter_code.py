"""What an adapter has, by the text of its file: most machines lack some library."""

import ast

from docs.imports import MODULES
from interop.adapters.table import TABLE

BASES = "interop.adapters.numbas"
"""The file with classes that adapters derive from."""


def adapter_of(library: str) -> tuple[ast.ClassDef, set[str]]:
    """The class of the adapter, and the names of its methods and of those that it inherits."""
    (adapter,) = [found for name, found in _classes(TABLE[library].adapter).items() if name.endswith("Adapter")]
    inherited = _classes(BASES)
    bodies = [adapter, *[inherited[base.id] for base in adapter.bases if base.id in inherited]]
    return adapter, {node.name for found in bodies for node in found.body if isinstance(node, ast.FunctionDef)}


def _classes(module: str) -> dict[str, ast.ClassDef]:
    code = ast.parse(MODULES[module].read_text())
    return {node.name: node for node in code.body if isinstance(node, ast.ClassDef)}
