"""Methods and classes of other libraries, replaced for as long as they are watched, and put back exactly."""

import functools
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Final

_INHERITED: Final = object()


class _Calls(threading.local):
    """Whether a call that will be told of is running in the thread: those that it makes itself are part of it."""

    running = False


_calls: Final = _Calls()


class Changes:
    """What was changed in other libraries, and how to undo it.

    A signal handler may raise anywhere, between any two lines of this file too. So what undoes a change is noted before
    the change is made, is forgotten after it was undone, and may run twice, or without the change.
    """

    def __init__(self) -> None:
        """Start with nothing changed."""
        self._undo: list[Callable[[], None]] = []

    def __len__(self) -> int:
        """How many changes there are."""
        return len(self._undo)

    def add(self, undo: Callable[[], None]) -> None:
        """Note what undoes a change that is about to be made."""
        self._undo.append(undo)

    def undo(self, down_to: int = 0) -> None:
        """Undo all changes but the first few, the last one first."""
        try:
            self._undo_down_to(down_to)
        except BaseException:
            self._undo_down_to(down_to)
            raise

    def _undo_down_to(self, number: int) -> None:
        while len(self._undo) > number:
            self._undo[-1]()
            self._undo.pop()

    def replace(self, owner: Any, name: str, new: object) -> None:  # noqa: ANN401  (a class or a module)
        """Let *name* of a class or module be *new*."""
        before = vars(owner).get(name, _INHERITED)

        def put_back() -> None:
            if vars(owner).get(name, _INHERITED) is before:
                return
            if before is _INHERITED:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

        self.add(put_back)
        setattr(owner, name, new)

    def tell(
        self,
        owner: Any,  # noqa: ANN401  (a class or a module)
        name: str,
        tell: Callable[..., None],
        but_not_of: ModuleType | None = None,
    ) -> None:
        """Call *tell* after each call of a method that succeeds: with what it returned, and then its arguments.

        They come as they were given, by position or by name: *tell* calls those that have a name as the method does.

        Of what such a call comes down to nothing is told, and neither is what the package *but_not_of* calls. Who keeps
        the method beyond the time of this change has one that tells nothing.
        """
        tells = [tell]
        self.add(tells.clear)
        self.replace(owner, name, _telling(getattr(owner, name), tells, but_not_of))

    def tell_property(self, owner: type, name: str, tell: Callable[..., None]) -> None:
        """The same for a property that is read."""
        original = getattr(owner, name)

        def read(self: object) -> object:
            result = original.fget(self)
            tell(result, self)
            return result

        self.replace(owner, name, property(read, doc=original.__doc__))

    def stand_in(self, owner: Any, name: str, **tells: Callable[..., None]) -> None:  # noqa: ANN401  (a module)
        """Let *name* be a class for the one that is there, whose own methods cannot be replaced.

        The instances of the new class tell, for as long as this is so, and those of the old one are taken for its own.

        Args:
            owner: the module.
            name: the name of the class there.
            tells: by the name of a method, what to call after it, as :meth:`tell` does.
        """
        original = getattr(owner, name)

        class Taken(type(original)):  # type: ignore[misc]
            def __instancecheck__(cls, instance: object) -> bool:
                # A class that is derived from it in the block has instances of its own.
                return isinstance(instance, original) if cls is made else super().__instancecheck__(instance)

        made = Taken(original.__name__, (original,), {"__module__": original.__module__})
        self.replace(owner, name, made)
        for method, tell in tells.items():
            self.tell(made, method, tell)


def _telling(
    original: Callable[..., Any], tells: Sequence[Callable[..., None]], but_not_of: ModuleType | None
) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (whatever the method takes and returns)
        if (
            not tells
            or _calls.running
            or (but_not_of and sys._getframe(1).f_globals.get("__package__") == but_not_of.__name__)
        ):
            return original(*args, **kwargs)
        _calls.running = True
        try:
            result = original(*args, **kwargs)
        finally:
            _calls.running = False
        if "self" in kwargs:  # a method, called by its class
            args = (kwargs.pop("self"),)
        for tell in tells:
            tell(result, *args, **kwargs)
        return result

    return call
