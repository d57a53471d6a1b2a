"""Which frames are the user's: for places in reports of races and of blocked hosts, and for tracebacks."""

import contextlib
import os
import sys
from types import CodeType, FrameType, TracebackType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import dis
    from collections.abc import Iterable

# pathlib and inspect would take a sixth of the time of `import interop`.
_OURS: Final = __file__.removesuffix(os.path.join("_show", "callsite.py"))  # noqa: PTH118
_PROGRAMS: Final = tuple(_OURS + file for file in ("demo.py", f"matrix{os.sep}", f"testing{os.sep}conformance{os.sep}"))
"""Files of this package that count as user code: they are programs and tests."""
_PYTHON: Final = contextlib.__file__.removesuffix("contextlib.py")
_INSTALLED: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_CALLS: Final = ("CALL", "CALL_KW", "CALL_FUNCTION_EX")
_STORES: Final = {
    **dict.fromkeys(("STORE_DEREF", "STORE_FAST", "STORE_FAST_LOAD_FAST", "STORE_GLOBAL", "STORE_NAME"), 1),
    "STORE_FAST_STORE_FAST": 2,
}
"""How many values each of these takes from Python's stack."""
BETWEEN: Final[set[str]] = set()
"""The top-level modules whose code may lie between the user's code and interop's. ``interop.adapters`` fills it."""


def user_frame() -> FrameType | None:
    """The innermost frame of user code: not of interop, of ``contextlib``, or of a library in between."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  (inspect.currentframe is the same)
    while frame is not None and (_is_ours(frame) or _is_between(frame)):
        frame = frame.f_back
    return frame


def user_trace(trace: TracebackType | None) -> TracebackType | None:
    """*trace* without the frames of interop."""
    entries: list[TracebackType] = []
    while trace is not None:
        if not _is_ours(trace.tb_frame):
            entries.append(trace)
        trace = trace.tb_next
    for entry in reversed(entries):
        trace = TracebackType(trace, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return trace


def where(frame: FrameType | None = None) -> str:
    """``file:line`` of *frame*, by default of :func:`user_frame`; ``In [5], line 4`` if it is in a notebook's cell."""
    frame = frame or user_frame()
    return "unknown" if frame is None else _at(frame.f_code, frame.f_lineno)


def where_of(frames: "Iterable[tuple[CodeType, int]]") -> tuple[str, str]:
    """Where the innermost frame of user code is, as :func:`where` says it, and the one variable that its line sets.

    *frames* are of the past: the code and the line of each. Python's own library and installed packages are no user
    code. The variable is empty if the line sets none, or several.
    """
    for code, line in frames:
        file = code.co_filename
        is_library = file.startswith((_OURS, _PYTHON, "<frozen")) or any(part in file for part in _INSTALLED)
        if not is_library or file.startswith(_PROGRAMS):
            return _at(code, line), _variable(code, line)
    return "unknown", ""


def _at(code: CodeType, line: int) -> str:
    return f"{cell}, line {line}" if (cell := _cell(code.co_filename)) else f"{code.co_filename}:{line}"


def _variable(code: CodeType, line: int) -> str:
    import dis  # noqa: PLC0415  (only for reports)

    names: set[str] = set()
    for step in dis.get_instructions(code):
        if step.opname in _STORES and step.positions is not None and step.positions.lineno == line:
            names.update(step.argval if isinstance(step.argval, tuple) else (step.argval,))
    return names.pop() if len(names) == 1 else ""


def assigned(code: CodeType, at: int, called: str) -> str:
    """The variable that the result of the call at *at* is assigned to, if that is certain; else an empty string.

    It is certain if the call is one of the function *called*, by name, and its result goes to one variable at once:
    ``copies = interop.new_stream()``, or one of several: ``p, q = new_stream(), new_stream()``. The code itself tells,
    so the source may be gone or edited.
    """
    import dis  # noqa: PLC0415  (only for reports)

    steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
    before = [step for step in steps if step.offset <= at]  # Python 3.11 states an offset inside the call
    after = steps[len(before) :]
    call = before[-1] if before else None
    if call is None or call.opname not in _CALLS or None in (call.positions or [None]):
        return ""
    start, end = _place(call)
    if not any(step.argval == called and _place(step)[0] == start for step in before):
        return ""
    others = [_place(step) for step in after if step.opname in _CALLS and _place(step)[0] >= end]
    above = 0  # so many values are above the result on Python's stack
    rest = iter(after)
    for step in rest:
        place, count = _place(step), step.arg or 0
        around = [other for other in others if other[0] <= place[0] and place[1] <= other[1]]
        if around:
            above += around == [place] and step.opname in _CALLS  # one value each, of a call that is in no other one
        elif step.opname in _STORES:
            names = step.argval if isinstance(step.argval, tuple) else (step.argval,)
            if above < _STORES[step.opname]:
                return str(names[above])
            above -= _STORES[step.opname]
        elif step.opname == "SWAP":
            above = {0: count - 1, count - 1: 0}.get(above, above)
        elif step.opname == "BUILD_TUPLE" and above < count and next(rest).opname == "UNPACK_SEQUENCE":
            above = count - 1 - above
        else:
            return ""
    return ""


def _place(step: "dis.Instruction") -> tuple[tuple[int, int], tuple[int, int]]:
    """Where the part of the source begins, and where it ends, that *step* was compiled from."""
    line, last_line, column, last_column = (number or 0 for number in step.positions or (0, 0, 0, 0))
    return (line, column), (last_line, last_column)


def _cell(file: str) -> str:
    """The notebook's cell that *file* stands for, such as ``In [5]``; empty if it stands for none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    label = shell.compile.format_code_name(file) if shell else None  # ("Cell", "In[5]")
    return label[1].replace("[", " [") if label else ""


def _is_ours(frame: FrameType) -> bool:
    """Whether a frame is of interop, or of ``contextlib``, by which interop makes some of its blocks."""
    file = frame.f_code.co_filename
    return file == contextlib.__file__ or (file.startswith(_OURS) and not file.startswith(_PROGRAMS))


def _is_between(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__", "").partition(".")[0] in BETWEEN
