"""``%%interop_check``: run a notebook's cell under a ledger, and show what it found."""

from types import FunctionType
from typing import Any

from interop.ledger.session import check


def register(shell: Any) -> None:
    """Give an IPython shell the magic."""

    def interop_check(line: str, cell: str) -> None:
        """Run the cell, and print the report. ``%%interop_check libraries`` names the eye, as ``check(eye=...)``."""
        source = shell.transform_cell(cell)
        name = shell.compile.cache(source, shell.execution_count)
        kept = FunctionType(shell.compile(source, name, "exec"), shell.user_ns)  # so that its lines can be told
        eye: Any = line.strip() or None
        with check(raises=False, eye=eye) as ledger:
            exec(kept.__code__, shell.user_ns)  # noqa: S102  (it is the user's cell)
        print(ledger)

    shell.register_magic_function(interop_check, magic_kind="cell")
