"""The names of streams: those that a program gives, and what reports call a stream that was given none.

A name belongs to the stream, whichever object it is borrowed from next. It is kept for as long as the owner lives whose
stream was named, and is forgotten before another stream can get the address. If nothing is known to keep the stream
alive, as with a bare address, CUDA's number of the stream, which is never used again, tells the next one from it.
"""

import contextlib
import itertools
import weakref
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Final, NamedTuple

from interop import _cuda
from interop._core.above import Stream
from interop._show.callsite import assigned
from interop._show.text import described, exact_str
from interop.errors import InteropError

if TYPE_CHECKING:
    from collections.abc import Iterator

_ORDINALS: Final = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


class _Named(NamedTuple):
    """What a stream is called.

    Attributes:
        name: the name that it was given; empty if it was given none.
        life: what has to live for the name to count.
        number: CUDA's number of the stream, where *life* does not keep the stream alive; None if that is not known.
        call: the code that made the stream, and where in it the call is.
    """

    name: str
    life: weakref.ref[object]
    number: int | None = None
    call: tuple[CodeType, int] | None = None


_owned: Final[dict[tuple[object, ...], _Named]] = {}
"""By the identity of a stream that its owner keeps alive."""
addresses: Final[dict[tuple[object, ...], _Named]] = {}
"""By the identity of any other stream: its address may belong to another stream by now."""


def identity_of(stream: Stream) -> tuple[object, ...]:
    """What tells a stream from all others that exist at the same time. Does not keep the stream alive."""
    return (stream._cuda, stream._handle, stream._needs, stream._thread)


def checked(name: object) -> str:
    """*name* as a plain str.

    Raises:
        TypeError: it is no str.
        ValueError: it is empty, or has line breaks or other characters that cannot be shown.
    """
    text = exact_str(name)
    if text is None:
        message = f"the name of a stream is a str; got {described(name)}"
        raise TypeError(message)
    if not text.strip() or not text.isprintable():
        message = f"the name of a stream is one line, of characters that can be shown; got {name!r}"
        raise ValueError(message)
    return text


def give(stream: Stream, name: str, *, lives: bool) -> None:
    """Name *stream*. *lives* says whether its owner keeps the CUDA stream alive."""
    key = identity_of(stream)
    if stream._cuda.simulation is not None:
        stream._cuda.simulation.name_stream(stream._handle, name)
    before = _owned.get(key)
    if before is not None and before.life() is not None:
        _owned[key] = before._replace(name=name)
        return
    number = None
    if not lives:
        with contextlib.suppress(InteropError):  # there is no device, or the stream captures
            number = stream.stream_id
    _remember(_owned if lives else addresses, key, _life(stream), name, number)


def made(stream: Stream, name: str, caller: FrameType | None) -> None:
    """Remember the name of the new *stream*, if it was given one, and the call that made it."""
    _remember(_owned, identity_of(stream), stream.owner, name, None, caller and (caller.f_code, caller.f_lasti))
    if name and stream._cuda.simulation is not None:
        stream._cuda.simulation.name_stream(stream._handle, name)


def _remember(
    table: dict[tuple[object, ...], _Named],
    key: tuple[object, ...],
    life: object,
    name: str,
    number: int | None = None,
    call: tuple[CodeType, int] | None = None,
) -> None:
    def forget(reference: object) -> None:
        found = table.pop(key, None)
        if found is not None and found.life is not reference:  # the name of the next stream there
            table.setdefault(key, found)

    table[key] = _Named(name, weakref.ref(life, forget), number, call)


def _life(stream: Stream) -> object:
    """An object that takes weak references and lives as long as the owner of *stream*; else *stream* itself."""
    owner = stream.owner
    life = owner if stream._adapter is None or owner is None else stream._adapter.life(owner)
    return stream if life is None or not type(life).__weakrefoffset__ else life


def recognise(stream: Stream) -> None:
    """If an address was named that is now that of *stream*, ask CUDA for the number of *stream*."""
    found = addresses.get(identity_of(stream))
    if found is not None and found.number is not None:
        with contextlib.suppress(InteropError):
            stream.stream_id  # noqa: B018  (it is kept)


def _found(stream: Stream) -> _Named | None:
    key = identity_of(stream)
    found = _owned.get(key)
    if found is not None or not addresses:
        return found
    found = addresses.get(key)
    if found is None or (stream._id is not None and stream._id == found.number) or found.life() is _life(stream):
        return found
    return None


def name_of(stream: Stream) -> str:
    """The name of *stream*; empty if it has none. Calls no CUDA."""
    found = _found(stream)
    if found is not None and found.name:
        return found.name
    name = getattr(stream.owner, "name", None) if stream._cuda.simulation is not None else None
    return name if isinstance(name, str) else ""


def name_at(handle: int) -> str:
    """The name of the stream at an address, or the variable that interop's new stream was assigned to; else empty."""
    key = (_cuda.GPU, handle, 0, None)
    found = _owned.get(key) or addresses.get(key)
    if found is None:
        return ""
    return found.name or (assigned(*found.call, "new_stream") if found.call is not None else "")


def shown(stream: Stream) -> str:
    """What the repr of *stream*, and so messages, call it: its name, which default stream it is, or its address."""
    name = name_of(stream)
    return repr(name) if name else _cuda.DEFAULT_NAMES.get(stream._handle, f"{stream._handle:#x}")


def library_of(stream: Stream) -> str:
    """The import path of the library of *stream*; ``"SIMULATED"`` for the simulator's; empty if that is not known."""
    if stream._adapter is not None:
        return str(stream._adapter.library)
    module = "" if stream.owner is None else type(stream.owner).__module__
    if stream._cuda.simulation is not None and module == "interop.sim.objects":
        return "SIMULATED"
    return module.partition(".")[0].removeprefix("builtins")


class Labels:
    """What one report calls the streams: each stream the same each time, and no two streams the same."""

    def __init__(self) -> None:
        """Start with no stream."""
        self._labels: dict[tuple[object, ...], tuple[int | None, str]] = {}
        self._taken: dict[str, tuple[object, ...]] = {}
        self._numbers: dict[str, Iterator[int]] = {}

    def of(self, stream: Stream) -> str:
        """The stream's name, or which default stream it is.

        For any other stream: the variable that it was assigned to when interop made it, if that is certain; else its
        number among those of its library in this report; else its address.
        """
        if stream._handle <= _cuda.PER_THREAD and not stream.name:
            return _cuda.DEFAULT_NAMES[stream._handle]
        key = identity_of(stream)
        number, label = self._labels.get(key, (None, ""))
        if not label or number != stream._id:
            if label:  # of an earlier stream at the address
                self._taken.pop(label, None)
            label = self._new(stream)
            if self._taken.setdefault(label, key) != key:
                label += f" {stream._handle:#x}"
            self._labels[key] = (stream._id, label)
        return label

    def _new(self, stream: Stream) -> str:
        if name := name_of(stream):
            return name
        found = _found(stream)
        if found is not None and found.call is not None and (name := assigned(*found.call, "new_stream")):
            return name
        library = library_of(stream)
        if stream._adapter is None and library != "interop":
            return f"stream {stream._handle:#x}"
        number = next(self._numbers.setdefault(library, itertools.count(1)))
        which = f"{_ORDINALS[number - 1]} stream" if number <= len(_ORDINALS) else f"stream number {number}"
        return f"{library}'s {which}"
