"""Replaces methods and classes of other libraries while they are observed, and puts the originals back."""

import functools
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

_INHERITED: Final = object()


class _Calls(threading.local):
    """Whether an observed call is running in the thread. The calls that it makes itself are part of it."""

    running = False


_calls: Final = _Calls()


class Patches:
    """What was replaced in other libraries, and how to undo it.

    A signal handler may raise between any two lines of this file. So the function that undoes a change is noted before
    the change is made, and forgotten after it was undone. It may run twice, or without the change.
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._undo)

    def on_undo(self, undo: Callable[[], None]) -> None:
        """Note the function that undoes a change which is about to be made."""
        self._undo.append(undo)

    def undo(self, down_to: int = 0) -> None:
        """Undo the changes, the last one first, until so many are left."""
        try:
            self._undo_down_to(down_to)
        except BaseException:
            self._undo_down_to(down_to)
            raise

    def _undo_down_to(self, number: int) -> None:
        while len(self._undo) > number:
            self._undo[-1]()
            self._undo.pop()

    def patch(self, owner: Any, name: str, new: object) -> None:
        """Replace the attribute *name* of a class or module by *new*."""
        before = vars(owner).get(name, _INHERITED)

        def put_back() -> None:
            if vars(owner).get(name, _INHERITED) is before:
                return
            if before is _INHERITED:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

        self.on_undo(put_back)
        setattr(owner, name, new)

    def observe(self, owner: Any, name: str, callback: Callable[..., None], except_from: str = "") -> None:
        """Call *callback* after each successful call of a method, with the result, and then the arguments.

        A property is a method without arguments.

        The arguments come as the caller passed them, by position or by name. So the parameters of *callback* have the
        names that the method's have.

        Calls that an observed call makes itself are not observed, and neither are calls from the package *except_from*.
        After the patch is undone, the patched method calls the original and no callback: somebody may have kept it.
        """
        callbacks = [callback]
        self.on_undo(callbacks.clear)
        original: Any = getattr(owner, name)
        is_property = isinstance(original, property)
        observed = _observed(original.fget if is_property else original, callbacks, except_from)
        self.patch(owner, name, property(observed, doc=original.__doc__) if is_property else observed)

    def observe_class(self, owner: Any, name: str, **callbacks: Callable[..., None]) -> None:
        """Replace a class whose own methods cannot be replaced by a subclass whose methods are observed.

        Instances of the original class pass for instances of the subclass.

        Args:
            owner: the module.
            name: the name of the class there.
            callbacks: by the name of a method, what to call after it, as :meth:`observe` does.
        """
        original = getattr(owner, name)

        class Observed(type(original)):  # type: ignore[misc]
            def __instancecheck__(cls, instance: object) -> bool:
                # A subclass that the program derives meanwhile has only instances of its own.
                return isinstance(instance, original) if cls is made else super().__instancecheck__(instance)

        made = Observed(original.__name__, (original,), {"__module__": original.__module__})
        self.patch(owner, name, made)
        for method, callback in callbacks.items():
            self.observe(made, method, callback)


def _observed(
    original: Callable[..., Any], callbacks: Sequence[Callable[..., None]], except_from: str
) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        is_ours = except_from and sys._getframe(1).f_globals.get("__package__") == except_from
        if not callbacks or _calls.running or is_ours:
            return original(*args, **kwargs)
        _calls.running = True
        try:
            result = original(*args, **kwargs)
        finally:
            _calls.running = False
        if "self" in kwargs:  # the method was called as Class.method(self=...)
            args = (kwargs.pop("self"),)
        for callback in callbacks:
            callback(result, *args, **kwargs)
        return result

    return call
