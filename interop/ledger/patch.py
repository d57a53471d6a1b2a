"""Methods of other libraries, replaced for as long as they are watched, and put back exactly."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Final

_INHERITED: Final = object()


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
) -> contextlib.AbstractContextManager[None]:
    """Call *tell* after each call of a method that succeeds: with what it returned, and then its arguments."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (whatever the method takes and returns)
        result = original(*args, **kwargs)
        tell(result, *args, **kwargs)
        return result

    return replaced(owner, name, call)


def told_property(owner: type, name: str, tell: Callable[..., None]) -> contextlib.AbstractContextManager[None]:
    """The same for a property that is read."""
    original = getattr(owner, name)

    def read(self: object) -> object:
        result = original.fget(self)
        tell(result, self)
        return result

    return replaced(owner, name, property(read, doc=original.__doc__))
