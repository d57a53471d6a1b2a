"""Stand-ins for other libraries' objects, and helpers that the tests share."""

import contextlib
from collections.abc import Iterator

import interop
from interop import _cuda

OTHER_OBJECTS: tuple[object, ...] = (None, True, 0, 7, "stream", object(), type)
"""Objects that are no stream, no event and no array of any library."""


class Owner:
    """A stream of an unknown library, with nothing but ``__cuda_stream__``."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return (0, self.handle)


def turned_into_a_subclass(native: object) -> bool:
    """Change the class of *native* to a subclass of it; False if Python refuses, as for many classes in C."""
    try:
        native.__class__ = type("Derived", (type(native),), {"__slots__": (), "__module__": __name__})
    except TypeError:
        return False
    return True


@contextlib.contextmanager
def in_context_of(stream: interop.ExternalStream) -> Iterator[None]:
    """Make the context of *stream* current during the block."""
    cuda = _cuda.active()
    before = cuda.bound_context()
    cuda.bind_context(stream._usable_context())
    try:
        yield
    finally:
        cuda.bind_context(before)


def devices() -> range:
    """The ordinals of the first two devices, or of the only one."""
    return range(min(2, _cuda.active().device_count()))
