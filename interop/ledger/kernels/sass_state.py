"""What is in the registers and in the stack of a thread, at one place of the code."""

from dataclasses import dataclass, field
from typing import Self

from interop.ledger.kernels.values import NOTHING, Value, joined


def opposite(guard: str) -> str:
    """The guard that holds if this one does not: ``!P0`` for ``P0``."""
    return guard[1:] if guard.startswith("!") else f"!{guard}"


@dataclass(slots=True)
class State:
    """What each register is, and each word of the stack.

    Attributes:
        general: what they are.
        guarded: what they are instead if a predicate holds: what was written on that predicate since it was set, or
            what the way brought on which it held.
        holds: the predicates that hold here, since a branch was taken on them.
        depth: how many bytes the stack pointer has moved; ``None`` if that is not known.
    """

    general: dict[str, Value] = field(default_factory=dict)
    guarded: dict[str, dict[str, Value]] = field(default_factory=dict)
    holds: frozenset[str] = frozenset()
    depth: int | None = None

    def copy(self) -> Self:
        """The same, to be changed apart from this."""
        guarded = {guard: held.copy() for guard, held in self.guarded.items() if held}
        return type(self)(self.general.copy(), guarded, self.holds, self.depth)

    def read(self, key: str, guard: str) -> Value:
        """What an instruction reads that runs on *guard*."""
        if not self.guarded:
            return self.general.get(key, NOTHING)
        if guard and (own := self.guarded.get(guard, {}).get(key)) is not None:
            return own
        found = {g: held[key] for g, held in self.guarded.items() if key in held}
        if guard:
            found.pop(opposite(guard), None)
        if not found:
            return self.general.get(key, NOTHING)
        if any(opposite(g) in found for g in found):
            return joined(found.values())
        return joined((*found.values(), self.general.get(key, NOTHING)))

    def write(self, key: str, value: Value, guard: str) -> None:
        """What an instruction writes that runs on *guard*."""
        if guard:
            if self._guards(key) - {guard, opposite(guard)}:
                self._fold(key)
            self.guarded.setdefault(guard, {})[key] = value
            return
        self.general[key] = value
        for held in self.guarded.values():
            held.pop(key, None)

    def changed(self, predicate: str) -> None:
        """The predicate is set anew: what was written on it may be there, or not."""
        for guard in (predicate, opposite(predicate)):
            for key in list(self.guarded.get(guard, ())):
                self._fold(key)
        self.holds -= {predicate, opposite(predicate)}

    def assume(self, guard: str) -> None:
        """From here on the guard holds."""
        if guard:
            self.general |= self.guarded.pop(guard, {})
            self.guarded.pop(opposite(guard), None)
            self.holds |= {guard}

    def merge(self, other: Self) -> bool:
        """Take in what another way brings here; whether that was news.

        If a predicate holds on the other way and not on this one, what the other brings is only there if it holds.
        """
        before, other = self.copy(), other.copy()
        guards = [g for g in sorted(other.holds - self.holds) if self.guarded.get(g) or opposite(g) in self.holds]
        differing = {key for state in (self, other) for held in state.guarded.values() for key in held}
        differing |= {key for key, _ in self.general.items() ^ other.general.items()}
        for key in differing:
            if guards:
                self._part(key, guards[0], other)
            else:
                self._join(key, other)
        self.guarded = {guard: held for guard, held in self.guarded.items() if held}
        self.holds &= other.holds
        if self.depth != other.depth:
            self.depth = None
        return self != before

    def _join(self, key: str, other: Self) -> None:
        """One value that both ways bring."""
        if self._guards(key) != other._guards(key):
            self._fold(key)
            other._fold(key)
        for guard in self._guards(key):
            held = self.guarded[guard]
            held[key] = joined((held[key], other.guarded[guard][key]))
        self.general[key] = joined((self.general.get(key, NOTHING), other.general.get(key, NOTHING)))

    def _part(self, key: str, guard: str, other: Self) -> None:
        """One value that the other way brings if *guard* holds."""
        if (self._guards(key) | other._guards(key)) - {guard, opposite(guard)}:
            self._fold(key)
            other._fold(key)
        theirs, rest = other.read(key, guard), self.read(key, opposite(guard))
        mine = NOTHING if opposite(guard) in self.holds else self.read(key, guard)
        new = joined((mine, theirs))
        self.write(key, rest, "")
        if new != rest:
            self.write(key, rest, opposite(guard))
            self.write(key, new, guard)
            self.general[key] = joined((rest, new))

    def _guards(self, key: str) -> set[str]:
        return {guard for guard, held in self.guarded.items() if key in held}

    def _fold(self, key: str) -> None:
        """Forget on which predicates something was written."""
        self.write(key, self.read(key, ""), "")
