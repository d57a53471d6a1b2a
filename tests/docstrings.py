"""The examples in the docstrings of the public names, and what runs them.

An example stands in its docstring after ``Example::``, below the sentence that says what the name is. It may use
``interop`` and two streams, ``producer`` and ``consumer``. It needs a GPU if it imports a GPU library, or says
``# on a GPU``. One with ``interop.sim`` brings its own simulation. All others run on a GPU and on the simulator.
"""

import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

import interop
from interop import ledger, ordering, sim, testing
from tests import pages

_EXAMPLE = re.compile(r"^Example::\n\n(?P<text>(?:(?: {4}.*)?\n)+)", re.MULTILINE)


class Name(NamedTuple):
    """A public name, as a user writes it, and what it stands for."""

    path: str
    what: object

    @property
    def text(self) -> str:
        """The docstring, without its indentation."""
        return inspect.getdoc(self.what) or ""

    @property
    def example(self) -> str | None:
        """The example, if there is one."""
        found = _EXAMPLE.search(self.text + "\n")
        return textwrap.dedent(found["text"]).strip() + "\n" if found else None

    @property
    def program(self) -> pages.Program:
        """The example, to be run."""
        text = self.example or ""
        return pages.Program(text, None, "# on a GPU" in text or bool(pages.imported(text)))


def names() -> list[Name]:
    """The public names, and those in public classes; of each what stands for the same only once."""
    found = {id(name.what): name for name in reversed(list(_names()))}
    return [*reversed(found.values())]


def _names() -> Iterator[Name]:
    for module in (interop, testing, sim, ordering, ledger, interop.errors):
        for name in getattr(module, "__all__", ["InteropError"]):
            what = getattr(module, name)
            path = f"{module.__name__}.{name}"
            if not inspect.ismodule(what):
                yield Name(path, what)
            if inspect.isclass(what):
                for member in dir(what):
                    if not member.startswith("_") and hasattr(what, member):  # else a hint, in place of an attribute
                        yield Name(f"{path}.{member}", getattr(what, member))


def must_have_an_example(name: Name) -> bool:
    """Whether it is a name of ``interop`` itself, a function of another module, or a method of the main classes.

    Of the errors, only their root must have one.
    """
    if inspect.isclass(name.what) and issubclass(name.what, Exception):
        return name.what is interop.errors.InteropError
    if name.path.count(".") == 1:
        return True
    main = re.fullmatch(
        r"interop\.(?:ExternalStream|Event|Handover|Timeline|testing|sim|ordering|ledger)\.\w+", name.path
    )
    return main is not None and inspect.isroutine(name.what)


NAMES = names()
EXAMPLES = [name for name in NAMES if name.example]
