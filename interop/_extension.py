"""Whether the extension in C is there, and wanted.

It is left out where there was no compiler at the time of installation, in an interpreter other than the main one, and
with ``INTEROP_NATIVE=0``. ``INTEROP_NATIVE=1`` makes it an error that it cannot be imported.
"""

import importlib
import os
from types import ModuleType
from typing import TYPE_CHECKING, Final

_WANTED: Final = os.environ.get("INTEROP_NATIVE", "")


def _load() -> tuple[ModuleType | None, str]:
    if _WANTED == "0":
        return None, "INTEROP_NATIVE=0"
    try:
        return importlib.import_module("interop._native"), ""
    except ImportError as error:
        if _WANTED:
            raise
        return None, str(error)


native, why_not = _load()

if TYPE_CHECKING or native is None:
    from interop._plain import EventFields, LoanFields, Pool, StreamFields
else:
    EventFields, LoanFields = native.EventFields, native.LoanFields
    Pool, StreamFields = native.Pool, native.StreamFields

__all__ = ["EventFields", "LoanFields", "Pool", "StreamFields", "native", "why_not"]
