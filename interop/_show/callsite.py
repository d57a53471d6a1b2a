"""The line of the user's code that called interop, for reports of races and of blocked hosts."""

import contextlib
import os
import sys
from types import FrameType
from typing import Final

# pathlib and inspect would take a sixth of the time of `import interop`.
_OURS: Final = __file__.removesuffix(os.path.join("_show", "callsite.py"))  # noqa: PTH118
_PROGRAMS: Final = (_OURS + "demo.py", _OURS + "matrix" + os.sep)
"""Files of this package that count as user code: they are programs."""
BETWEEN: Final[set[str]] = set()
"""The top-level modules whose code may lie between the user's code and interop's. ``interop.adapters`` fills it."""


def user_frame() -> FrameType | None:
    """The innermost frame of user code: not of interop, of ``contextlib``, or of a library in between."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  (inspect.currentframe is the same)
    while frame is not None and _is_machinery(frame):
        frame = frame.f_back
    return frame


def where(frame: FrameType | None = None) -> str:
    """``file:line`` of *frame*, by default of :func:`user_frame`."""
    frame = frame or user_frame()
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "unknown"


def _is_machinery(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if file == contextlib.__file__ or (file.startswith(_OURS) and not file.startswith(_PROGRAMS)):
        return True
    return frame.f_globals.get("__name__", "").partition(".")[0] in BETWEEN
