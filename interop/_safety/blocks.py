"""Context managers that complain when nobody enters them, as coroutines do that nobody awaits.

``assert_ordered(p, c)`` without ``with`` asserts nothing, and ``assert is_ordered(p, c)`` asks nothing: both would
pass.
"""

import contextlib
import functools
import sys
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)


class Block(Generic[T_co]):
    """A context manager that does nothing until it is entered, and warns if it never is. ``bool()`` of it is an error.

    A subclass sets ``_entered`` to False when it is made, and to True when it is entered.
    """

    _entered: bool = True  # until it is made: what raises in __init__ says enough

    @property
    @abstractmethod
    def _call(self) -> str:
        """The name of the function or class that users call."""

    @abstractmethod
    def __enter__(self) -> T_co: ...

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...

    def __bool__(self) -> NoReturn:
        """Raise: nothing has happened that could be true.

        Raises:
            TypeError: always.
        """
        self._entered = True  # this error says it
        message = f"{self._call}(...) does nothing before it is entered, and is not true or false: {self._way_out}"
        raise TypeError(message)

    @property
    def _way_out(self) -> str:
        return f"write `with {self._call}(...):`"

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not self._entered and not _finalizing():
            message = f"{self._call}(...) was never entered, and has done nothing: {self._way_out}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)


class _Generated(Block[T_co]):
    """What a generator does around its ``yield``."""

    _call = ""

    def __init__(self, call: str, manager: contextlib.AbstractContextManager[T_co]) -> None:
        self._call = call
        self._manager = manager
        self._entered = False

    def __enter__(self) -> T_co:
        __tracebackhide__ = True
        self._entered = True
        return self._manager.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        __tracebackhide__ = True
        return self._manager.__exit__(kind, error, trace)


def block(function: Callable[P, Iterator[T_co]]) -> Callable[P, Block[T_co]]:
    """As ``contextlib.contextmanager``; what it makes is a :class:`Block`."""
    manager = contextlib.contextmanager(function)

    @functools.wraps(function)
    def made(*arguments: P.args, **named: P.kwargs) -> Block[T_co]:
        return _Generated(function.__name__, manager(*arguments, **named))

    return made
