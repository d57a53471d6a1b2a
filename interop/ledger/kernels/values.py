"""What a kernel does through each of its parameters: the values that the analyses follow, and what they find.

A *value* is a set of alternatives, one for each way in which the register may have got its content. An alternative is
the set of things that were added up: ``a + 4 * i`` is one alternative, the word of ``a``; ``a if i else b`` is two.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Self

from interop._order.findings import Kind

Term = int | str | tuple[str, int]
"""The byte offset of a word of the parameters; or one of the names below; or ``("parameter", offset)``, its address."""

LOADED: Final = "loaded"
"""Loaded from memory, eight bytes wide: it may be a pointer."""
CHOSEN: Final = "chosen"
"""A parameter, chosen at run time."""
MIXED: Final = "mixed"
"""Too many alternatives, or a difference: which of its words is the address is not known."""
ZERO: Final = "zero"
"""Zero, and nothing was added to it: a null pointer, if it is an address."""
LOCAL: Final = "local"
SHARED: Final = "shared"
VARIABLE: Final = "variable"
"""The address of local or shared memory, or of a variable of the module."""

Value = frozenset[frozenset[Term]]

NOTHING: Final[Value] = frozenset()
"""Nothing was computed yet."""
NUMBER: Final[Value] = frozenset({frozenset()})
"""No address of anything."""

FAR: Final = -(1 << 40)
"""Added to the address of a parameter, it says that the offset is not known."""

HARMLESS: Final = frozenset({"vprintf", "__assertfail", "free", "malloc"})
"""The functions of the driver that write through no pointer they are given."""

_MOST: Final = 8


def only(term: Term) -> Value:
    """The value that is this one thing."""
    return frozenset({frozenset({term})})


def joined(values: Iterable[Value]) -> Value:
    """One of *values*."""
    return _limited(frozenset().union(*values))


def added(values: Iterable[Value]) -> Value:
    """The sum of *values*, or what else keeps an address an address."""
    total = NUMBER
    for value in values:
        if value is not NUMBER and value != NUMBER:
            total = _limited(frozenset(one | other for one in total for other in value))
    return total


def subtracted(left: Value, right: Value) -> Value:
    """The difference of two values. If *right* is computed from parameters, no parameter is surely the address."""
    both = added([left, right])
    return unsure(both) if words(right) else both


def number(value: Value) -> Value:
    """The same where something is computed from it: zero is a number as any other."""
    return frozenset(one - {ZERO} for one in value) if any(ZERO in one for one in value) else value


def aimed(value: Value) -> Value:
    """The same where it is an address: null is none, if it may be another."""
    return frozenset(one for one in value if one != {ZERO}) or value


def mixed(values: Iterable[Value]) -> Value:
    """What is computed from *values* in some way. If more than one may be an address, none surely is."""
    found = [value for value in map(number, values) if value not in (NOTHING, NUMBER)]
    return added(found) if len(found) < 2 else unsure(added(found))  # noqa: PLR2004


def moved(value: Value, by: int) -> Value:
    """A value with a number added, which matters where the value is the address of a parameter."""
    if not any(isinstance(term, tuple) for one in value for term in one):
        return value
    return frozenset(
        frozenset((term[0], term[1] + by) if isinstance(term, tuple) else term for term in one) for one in value
    )


def words(value: Value) -> set[int]:
    """The words of the parameters that a value was computed from."""
    return {term for one in value for term in one if isinstance(term, int)}


def unsure(value: Value) -> Value:
    """The same, and no parameter is surely the address."""
    return frozenset(one | {MIXED} for one in value)


def _limited(value: Value) -> Value:
    if len(value) > 1:
        # A mixture says all that one of its parts says; that something is no address at all it does not say.
        mixtures = [one for one in value if MIXED in one]
        if mixtures:
            value = frozenset(one for one in value if not (one and any(one < mixture for mixture in mixtures)))
    if len(value) <= _MOST:
        return value
    return (value & NUMBER) | {frozenset().union(*value) | {MIXED}}


@dataclass(frozen=True, slots=True)
class Access:
    """What one kernel does through its parameters.

    Attributes:
        reads: the offsets of the words, in bytes from the first parameter, through which the kernel reads.
        writes: those through which it writes.
        maybe: those through which it may write.
        every: it may write through any word: *why* says what could not be followed.
        chosen: it reads through words that are chosen at run time.
        why: why it only may write through some words, in words; else empty.
        parameters: where each parameter begins, in bytes; empty if that is not known.

    A store counts also if it runs on a condition, such as ``if i < n``.
    """

    reads: frozenset[int] = frozenset()
    writes: frozenset[int] = frozenset()
    maybe: frozenset[int] = frozenset()
    every: bool = False
    chosen: bool = False
    why: str = ""
    parameters: tuple[int, ...] = ()

    def of(self, offset: int) -> Kind | None:
        """What the kernel does through the word at *offset*, in bytes from the first parameter.

        Returns:
            ``None`` if the kernel never uses the word as an address.
        """
        if offset in self.writes:
            return Kind.WRITE
        if self.every or offset in self.maybe:
            return Kind.MAYBE
        return Kind.READ if self.chosen or offset in self.reads else None

    def __or__(self, other: Self) -> "Access":
        """What one of two kernels of one name does: what only one of them surely writes, is written maybe."""
        writes = self.writes & other.writes
        maybe = (self.maybe | other.maybe | self.writes | other.writes) - writes
        return Access(
            self.reads | other.reads,
            writes,
            maybe,
            self.every or other.every,
            self.chosen or other.chosen,
            self.why or other.why or ("several kernels have this name" if self.writes != other.writes else ""),
            self.parameters if self.parameters == other.parameters else (),
        )

    def to_json(self) -> list[Any]:
        """The same as lists, for the file of the cache."""
        offsets = [sorted(self.reads), sorted(self.writes), sorted(self.maybe)]
        return [*offsets, self.every, self.chosen, self.why, self.parameters]

    @classmethod
    def from_json(cls, stored: list[Any]) -> Self:
        """What :meth:`to_json` made. It raises ``TypeError`` or ``ValueError`` for anything else."""
        reads, writes, maybe, every, chosen, why, parameters = stored
        if not (isinstance(every, bool) and isinstance(chosen, bool) and isinstance(why, str)):
            raise TypeError(stored)
        read, written, unsure = (frozenset(map(int, offsets)) for offsets in (reads, writes, maybe))
        return cls(read, written, unsure, every, chosen, why, tuple(map(int, parameters)))


@dataclass(slots=True)
class Effects:
    """Gathers what a kernel does, one access after the other."""

    reads: set[int] = field(default_factory=set)
    writes: set[int] = field(default_factory=set)
    maybe: set[int] = field(default_factory=set)
    chosen: bool = False
    every: bool = False
    whys: dict[str, None] = field(default_factory=dict)

    def access(self, parameters: Iterable[int]) -> Access:
        """What was gathered."""
        maybe = frozenset(self.maybe - self.writes)
        why = "; ".join(self.whys)
        return Access(
            frozenset(self.reads), frozenset(self.writes), maybe, self.every, self.chosen, why, tuple(parameters)
        )

    def lost(self, why: str) -> None:
        """Something was not followed that may write anything."""
        self.every = True
        self.whys[why] = None

    def read(self, address: Value) -> None:
        """A load from *address*. If nothing is known of it, it may be any parameter."""
        self.reads |= words(address)
        self.chosen |= any(CHOSEN in one or not one for one in address or NUMBER)

    def written(self, address: Value) -> None:
        """A store to *address*."""
        if not address:
            self.lost("a store to an address that nothing computes")
            return
        found = [self._base(one) for one in address]
        sure = frozenset.intersection(*found)
        self.writes |= sure
        if rest := words(address) - sure:
            self.maybe |= rest
            self.whys["a store to one of several addresses"] = None

    def passed(self, value: Value, why: str) -> None:
        """*value* is given to code that is not seen."""
        self.read(value)
        for one in value:
            if LOADED in one or CHOSEN in one:
                self.lost(why)
        if found := words(value):
            self.maybe |= found
            self.whys[why] = None

    def _base(self, one: frozenset[Term]) -> frozenset[int]:
        """The words of one alternative that are surely written through."""
        found = frozenset(term for term in one if isinstance(term, int))
        if CHOSEN in one:
            self.lost("a store through a parameter that is chosen at run time")
        elif LOADED in one:
            also = " and from a parameter" if found else ""
            self.lost(f"a store whose address was loaded from memory{also}")
        elif not found and not one & {LOCAL, SHARED, VARIABLE}:
            self.lost("a store whose address is computed from no parameter")
        return frozenset() if one & {MIXED, LOADED, CHOSEN} else found
