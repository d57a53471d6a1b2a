"""Methods and classes of other libraries, replaced for as long as they are watched, and put back exactly."""

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, Final

_INHERITED: Final = object()


class _Calls(threading.local):
    """Whether a call that will be told of is running in the thread: those that it makes itself are part of it."""

    running = False


_calls: Final = _Calls()


@contextlib.contextmanager
def replaced(owner: Any, name: str, new: object) -> Iterator[None]:  # noqa: ANN401  (a class or a module)
    """Let *name* of a class or module be *new*."""
    before = vars(owner).get(name, _INHERITED)
    setattr(owner, name, new)
    try:
        yield
    finally:
        if before is _INHERITED:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextlib.contextmanager
def told(
    owner: Any,  # noqa: ANN401  (a class or a module)
    name: str,
    tell: Callable[..., None],
    but_not_of: ModuleType | None = None,
) -> Iterator[None]:
    """Call *tell* after each call of a method that succeeds: with what it returned, and then its arguments.

    They come as they were given, by position or by name: *tell* calls those that have a name as the method does.

    Of what such a call comes down to nothing is told, and neither is what *but_not_of* calls. Who keeps the method
    beyond the block has one that tells nothing.
    """
    tells = [tell]
    with replaced(owner, name, _telling(getattr(owner, name), tells, but_not_of)):
        try:
            yield
        finally:
            tells.clear()


@contextlib.contextmanager
def stood_in(owner: Any, name: str, **tells: Callable[..., None]) -> Iterator[None]:  # noqa: ANN401  (a module)
    """Let *name* be a class for the one that is there, whose own methods cannot be replaced.

    The instances of the new class tell, until the end of the block, and those of the old one are taken for its own.

    Args:
        owner: the module.
        name: the name of the class there.
        tells: by the name of a method, what to call after it, as :func:`told` does.
    """
    original = getattr(owner, name)

    class Taken(type(original)):  # type: ignore[misc]
        def __instancecheck__(cls, instance: object) -> bool:
            # A class that is derived from it in the block has instances of its own.
            return isinstance(instance, original) if cls is made else super().__instancecheck__(instance)

    made = Taken(original.__name__, (original,), {"__module__": original.__module__})
    with contextlib.ExitStack() as undo:
        undo.enter_context(replaced(owner, name, made))
        for method, tell in tells.items():
            undo.enter_context(told(made, method, tell))
        yield


def _telling(
    original: Callable[..., Any], tells: Sequence[Callable[..., None]], but_not_of: ModuleType | None
) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (whatever the method takes and returns)
        if not tells or _calls.running or (but_not_of and sys._getframe(1).f_globals is vars(but_not_of)):
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


def told_property(owner: type, name: str, tell: Callable[..., None]) -> contextlib.AbstractContextManager[None]:
    """The same for a property that is read."""
    original = getattr(owner, name)

    def read(self: object) -> object:
        result = original.fget(self)
        tell(result, self)
        return result

    return replaced(owner, name, property(read, doc=original.__doc__))
