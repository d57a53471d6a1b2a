"""What is in the registers and in the stack of a thread, at one place of the code."""

from dataclasses import dataclass, field
from typing import Self

from interop.ledger.kernels.values import NOTHING, Value, joined


def _opposite(guard: str) -> str:
    return guard[1:] if guard.startswith("!") else f"!{guard}"


@dataclass(slots=True)
class State:
    """What each register is, and each word of the stack.

    Attributes:
        general: what they are.
        guarded: what they are instead if a predicate holds: what was written on that predicate, since it was set.
        depth: how many bytes the stack pointer has moved; ``None`` if that is not known.
    """

    general: dict[str, Value] = field(default_factory=dict)
    guarded: dict[str, dict[str, Value]] = field(default_factory=dict)
    depth: int | None = None

    def copy(self) -> Self:
        """The same, to be changed apart from this."""
        return type(self)(self.general.copy(), {guard: held.copy() for guard, held in self.guarded.items()}, self.depth)

    def read(self, key: str, guard: str) -> Value:
        """What an instruction reads that runs on *guard*."""
        if not self.guarded:
            return self.general.get(key, NOTHING)
        if guard and (own := self.guarded.get(guard, {}).get(key)) is not None:
            return own
        found = {g: held[key] for g, held in self.guarded.items() if key in held}
        if guard:
            found.pop(_opposite(guard), None)
        if not found:
            return self.general.get(key, NOTHING)
        if any(_opposite(g) in found for g in found):
            return joined(found.values())
        return joined((*found.values(), self.general.get(key, NOTHING)))

    def write(self, key: str, value: Value, guard: str) -> None:
        """What an instruction writes that runs on *guard*."""
        if guard:
            if self._guards(key) - {guard, _opposite(guard)}:
                self._fold_all(key)
            self.guarded.setdefault(guard, {})[key] = value
            return
        self.general[key] = value
        if self.guarded:
            for held in self.guarded.values():
                held.pop(key, None)

    def changed(self, predicate: str) -> None:
        """The predicate is set anew: what was written on it may be there, or not."""
        for guard in (predicate, f"!{predicate}"):
            for key in list(self.guarded.get(guard, ())):
                self._fold(guard, key)
            self.guarded.pop(guard, None)

    def assume(self, guard: str) -> None:
        """From here on the guard holds."""
        for key, value in self.guarded.pop(guard, {}).items():
            self.general[key] = value
        self.guarded.pop(_opposite(guard), None)

    def merge(self, other: Self) -> bool:
        """Take in what another way brings here; whether that was news."""
        before = (self.general.copy(), {guard: held.copy() for guard, held in self.guarded.items()}, self.depth)
        other = other.copy()
        for key in {key for one in (self, other) for held in one.guarded.values() for key in held}:
            if self._guards(key) != other._guards(key):
                self._fold_all(key)
                other._fold_all(key)
        for guard, held in self.guarded.items():
            for key, value in held.items():
                held[key] = joined((value, other.guarded[guard][key]))
        for key, value in other.general.items():
            old = self.general.get(key, NOTHING)
            if value != old:
                self.general[key] = joined((old, value))
        if self.depth != other.depth:
            self.depth = None
        return before != (self.general, self.guarded, self.depth)

    def _guards(self, key: str) -> set[str]:
        return {guard for guard, held in self.guarded.items() if key in held}

    def _fold_all(self, key: str) -> None:
        for guard, held in self.guarded.items():
            if key in held:
                self._fold(guard, key)

    def _fold(self, guard: str, key: str) -> None:
        """Forget on which predicate something was written."""
        value = self.guarded[guard].pop(key)
        opposite = self.guarded.get(_opposite(guard), {})
        rest = opposite.pop(key) if key in opposite else self.general.get(key, NOTHING)
        self.general[key] = joined((value, rest))
