"""Text for messages and tables."""

import io
import numbers
import reprlib
from typing import TYPE_CHECKING, Any, Final

from interop.errors import LibraryNotFoundError

if TYPE_CHECKING:
    from rich.console import RenderableType

_FALLBACK: Final = (120, 24)
"""Columns and lines where there is no terminal."""
_MOST_BITS: Final = 256


def plural(number: int, one: str, many: str = "") -> str:
    """A number with its noun: ``"1 race"``, ``"2 races"``."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def rich_or_refuse(instead: str = "") -> Any:  # noqa: ANN401  (a module)
    """The module rich, with the parts of it that tables are made of.

    Raises:
        LibraryNotFoundError: rich is not installed. The message ends with *instead*.
    """
    try:
        import rich.box  # noqa: PLC0415  (an extra)
        import rich.console  # noqa: PLC0415
        import rich.table  # noqa: PLC0415
        import rich.text  # noqa: PLC0415
    except ImportError as error:
        message = f"a table needs rich: pip install rich{instead}"
        raise LibraryNotFoundError(message, name="rich") from error
    return rich


def render(table: "RenderableType") -> str:
    """The text that rich prints for *table*, without colours, as wide as the terminal or as ``COLUMNS`` says."""
    import shutil  # noqa: PLC0415  (it imports all compressions: a third of the time of `import interop`)

    file = io.StringIO()
    width = shutil.get_terminal_size(_FALLBACK).columns
    rich_or_refuse().console.Console(file=file, width=width, color_system=None, force_jupyter=False).print(table)
    return file.getvalue()


def exact_str(obj: object) -> str | None:
    """The value of a str, also of a subclass, whose methods may do anything; None for anything else."""
    return str.__str__(obj) if issubclass(type(obj), str) else None


def described(obj: object) -> str:
    """How an object is named in a message: a built-in one and interop's own by ``repr``, others by type and address.

    The ``repr`` of another library's object may call CUDA, and crash on the very handle that the message is about.
    """
    cls = type(obj)
    if issubclass(cls, type):
        return type.__repr__(obj)
    if type(obj) is int and obj.bit_length() > _MOST_BITS:
        return f"an int of {obj.bit_length()} bits"
    if cls.__module__ == "builtins":
        try:
            return f"{reprlib.repr(obj)} of type {cls.__qualname__}"
        except ValueError:  # it holds an int of thousands of digits, which Python does not print
            return object.__repr__(obj)
    if (exact_str(cls.__module__) or "").startswith("interop."):
        return repr(obj)
    return f"{object.__repr__(obj)}{_hint(obj)}"


def _hint(obj: object) -> str:
    """What to pass in place of an object that stands for another object or number."""
    try:
        if obj.__class__ is not type(obj):
            return f" (a stand-in for an object of {described(obj.__class__)}: pass that object itself)"
        if isinstance(obj, numbers.Integral):
            return f" (an integer of another kind: pass int() of it, {int(obj)})"
    except Exception as error:  # noqa: BLE001  (the message quotes whatever it raised)
        return f" (asked what it is, it raised {type(error).__name__}: {error})"
    return ""
