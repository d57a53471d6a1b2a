"""Methods of other libraries, replaced for as long as they are watched, and put back exactly."""

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
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


def told(
    owner: Any,  # noqa: ANN401  (a class or a module)
    name: str,
    tell: Callable[..., None],
    but_not_of: ModuleType | None = None,
) -> contextlib.AbstractContextManager[None]:
    """Call *tell* after each call of a method that succeeds: with what it returned, and then its arguments.

    They come as they were given, by position or by name: *tell* calls those that have a name as the method does.

    Of what such a call comes down to nothing is told, and neither is what *but_not_of* calls.
    """
    return replaced(owner, name, _telling(getattr(owner, name), tell, but_not_of))


def stand_in(original: type, **tells: Callable[..., None]) -> type:
    """A class for *original*, whose own methods cannot be replaced: its instances tell, and it is taken for that one.

    Args:
        original: the class.
        tells: by the name of a method, what to call after it, as :func:`told` does.
    """

    class Taken(type(original)):  # type: ignore[misc]
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, original)

    methods = {name: _telling(getattr(original, name), tell) for name, tell in tells.items()}
    made: type = Taken(original.__name__, (original,), {"__module__": original.__module__, **methods})
    return made


def _telling(
    original: Callable[..., Any], tell: Callable[..., None], but_not_of: ModuleType | None = None
) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (whatever the method takes and returns)
        if _calls.running or (but_not_of and sys._getframe(1).f_globals is vars(but_not_of)):
            return original(*args, **kwargs)
        _calls.running = True
        try:
            result = original(*args, **kwargs)
        finally:
            _calls.running = False
        if "self" in kwargs:  # a method, called by its class
            args = (kwargs.pop("self"),)
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
