"""Whether the extension in C is there, and wanted; what stands in for it in Python is in ``plain.py``.

It is left out where it could not be compiled at the time of installation, in free-threaded builds of Python, which have
no stable ABI, in an interpreter other than the main one, and with ``INTEROP_NATIVE=0``. ``INTEROP_NATIVE=1`` makes it
an error that it cannot be imported.
"""

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Final

_NAME: Final = "interop._native._ext"


def switch(name: str, *, on: str, off: str) -> bool | None:
    """Whether an environment variable is 1; None if it is not set, or empty.

    Args:
        name: the name of the variable.
        on: what 1 does, for the message.
        off: what 0 does, for the message.

    Raises:
        ValueError: its value is neither 0 nor 1. interop does not guess what a word such as "off" means.
    """
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        message = f"{name} is 0, to {off}, or 1, to {on}; got {value!r}"
        raise ValueError(message)
    return value == "1" if value else None


def _load() -> tuple[ModuleType | None, str]:
    wanted = switch("INTEROP_NATIVE", on="insist on it", off="leave interop's extension in C out")
    if wanted is False:
        return None, "INTEROP_NATIVE=0"
    cause = None
    if "t" in sys.abiflags:  # an extension that another Python has built in this folder could be loaded, and crash
        why = "it is not built for free-threaded Python, which has no stable ABI"
    else:
        try:
            return importlib.import_module(_NAME), ""
        except ImportError as error:
            why, cause = _explained(error), error
    if wanted:
        message = f"INTEROP_NATIVE=1 insists on interop's extension in C, which is missing: {why}"
        raise ImportError(message, name=_NAME) from cause
    return None, why


def _explained(error: ImportError) -> str:
    """Why the extension cannot be imported, and what to do if there is something."""
    if not isinstance(error, ModuleNotFoundError) or error.name != _NAME:
        return str(error)
    from pathlib import Path  # noqa: PLC0415  (only for the message)

    note = Path(__file__).with_name("_ext.txt")  # setup.py writes it where the compiler fails
    if not note.exists():
        return "it was not built: install interop by pip, where there is a C compiler"
    said = note.read_text(errors="replace").splitlines()
    first = next((line for line in said if "error:" in line), said[-1])
    return f"it was not built: {first.strip()} (all that was said: {note}). Mend that, then install interop again"


native, why_not = _load()

if TYPE_CHECKING or native is None:
    from interop._native.plain import EventFields, Pool, StreamFields
else:
    EventFields, Pool, StreamFields = native.EventFields, native.Pool, native.StreamFields

__all__ = ["EventFields", "Pool", "StreamFields", "native", "switch", "why_not"]
