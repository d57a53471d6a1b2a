"""The instructions that load and store, in registers, shared memory, the stack of a thread, and the kernel's arrays."""

from collections.abc import Sequence
from typing import Final

from interop.ledger.kernels.sass_text import Instruction, operand
from interop.ledger.kernels.sass_values import Frame, Values
from interop.ledger.kernels.values import CHOSEN, LOADED, LOCAL, NOTHING, NUMBER, SHARED, Term, Value, joined, only

_STACK: Final = "stack"
"""Under this key lies what was stored somewhere in the stack."""


class Memory(Values):
    """Values, and what is loaded and stored.

    Attributes:
        shared: what may lie in shared memory: which byte of it is not followed, nor when it was stored.
        news: *shared* has changed.
    """

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame)
        self.shared = NOTHING
        self.news = True

    def slots(self, text: str, width: int) -> list[str] | None:
        """The words of the stack at this address; ``None`` if that is not known."""
        register, _, more = text.partition("+")
        if register != "R1" or self.state.depth is None or (more and operand(more).number is None):
            return None
        first = self.state.depth + (operand(more).number or 0)
        return [f"{_STACK}{first + 4 * part}" for part in range(width)]

    # -- loads

    def load(self, one: Instruction) -> None:
        """Run an instruction that loads."""
        width = _width(one)
        if one.name in ("LDC", "LDCU", "ULDC"):
            self.assign([self.value(one.sources[0], part) for part in range(width)])
            if one.results == ("R1",):
                self.move_stack(one)
            return
        if one.name in ("LDS", "LDSM"):
            self.assign([self.shared or NUMBER] * width)
        elif one.name == "LDL":
            self.assign(self.from_stack(one.address(), width))
        elif one.name in ("LDG", "LD", "LDGMC"):
            where = self.address(one.address())
            self.read(where)
            self.assign([joined(self.loaded(one, part) for one in where) for part in range(width)])
        else:  # a texture
            self.assign([only(LOADED)] * 4)

    def loaded(self, where: frozenset[Term], part: int) -> Value:
        """What is loaded from one address."""
        if SHARED in where:
            return self.shared or NUMBER
        if LOCAL in where:
            return self.anywhere()
        for term in where:
            if isinstance(term, tuple):
                at = term[1] + 4 * part
                return only(at // 8 * 8 if term[1] >= 0 else CHOSEN)
        return only(LOADED)

    def from_stack(self, text: str, width: int) -> list[Value]:
        """What lies in the stack at this address, word by word."""
        slots = self.slots(text, width)
        if slots is None:
            return [self.anywhere()] * width
        spread = self.state.read(_STACK, self.one.guard)
        return [joined((self.state.read(slot, self.one.guard), spread)) or NUMBER for slot in slots]

    def anywhere(self) -> Value:
        """What lies anywhere in the stack."""
        keys = {key for held in (self.state.general, *self.state.guarded.values()) for key in held}
        found = (self.state.read(key, self.one.guard) for key in keys if key.startswith(_STACK))
        return joined(value for value in found if value != NUMBER) or NUMBER

    # -- stores

    def store(self, one: Instruction) -> None:
        """Run an instruction that stores, or that changes what lies in memory."""
        name, width = one.name, _width(one)
        if name in ("SUST", "SURED", "SUATOM"):
            self.lost("a store to a surface")
        elif name == "CCTL" and any(part.startswith(("IV", "PF")) for part in one.parts):
            pass
        elif name == "LDGSTS":
            self.read(self.address(one.address(1)))
            self.keep([only(LOADED)])
        elif name in ("UBLKCP", "UBLKRED"):
            self.copied(one)
        elif name.startswith("UTMA"):
            # A tensor is told by a descriptor, whose first word is the address.
            where = self.address(one.address(1))
            self.touched(one, joined(self.loaded(part, 1) for part in where), writes=name != "UTMALDG")
        elif name in ("STS", "STSM", "STAS", "ATOMS", "REDAS"):
            self.keep(self.data(one, width))
            if one.results:
                self.assign([joined((self.shared, only(LOADED)))] * width)
        elif name == "STL":
            self.onto_stack(one, one.address(), width)
        else:
            self.touched(one, self.address(one.address()), writes=True)
            self.assign([only(LOADED)] * width)

    def read(self, where: Value) -> None:
        """Note a load."""
        if self.recording:
            self.effects.read(where)

    def touched(self, one: Instruction, where: Value, *, writes: bool) -> None:
        """A store or atomic operation, or the load of a tensor."""
        if not writes:
            self.read(where)
            self.keep([only(LOADED)])
            return
        if any(SHARED in part for part in where):
            self.keep(self.data(one, _width(one)))
        if any(LOCAL in part for part in where):
            self.spread(self.data(one, _width(one)))
        if self.recording:
            self.effects.written(where)
            if not one.name.startswith("ST"):
                self.effects.read(where)

    def copied(self, one: Instruction) -> None:
        """A copy in bulk: its name says to where and from where."""
        ways = [part for part in one.parts if part in ("S", "G")]
        if len(ways) != 2:  # noqa: PLR2004
            self.lost("a copy in bulk")
        elif ways[0] == "G":
            self.touched(one, self.address(one.address()), writes=True)
        else:
            if ways[1] == "G":
                self.read(self.address(one.address(1)))
            self.keep([only(LOADED)])

    def data(self, one: Instruction, width: int) -> list[Value]:
        """What is stored."""
        last = max((i for i, text in enumerate(one.sources) if text.endswith("]")), default=-1)
        registers = [text for text in one.sources[last + 1 :] if operand(text).register]
        return [self.value(text, part) for text in registers for part in range(width)]

    def keep(self, values: Sequence[Value]) -> None:
        """Store in shared memory: which byte of it is not followed, and numbers that are no upper half are left out."""
        new = joined((self.shared, *(value for i, value in enumerate(values) if i % 2 or value != NUMBER)))
        if new != self.shared:
            self.shared = new
            self.news = True

    def spread(self, values: Sequence[Value]) -> None:
        """Store somewhere in the stack."""
        old = self.state.read(_STACK, "")
        kept = (value for i, value in enumerate(values) if i % 2 or value != NUMBER)
        self.state.write(_STACK, joined((old, *kept)), "")

    def onto_stack(self, one: Instruction, text: str, width: int) -> None:
        """Store in the stack."""
        values = self.data(one, width) or [NUMBER] * width
        slots = self.slots(text, width)
        if slots is None:
            self.spread(values)
            return
        for slot, value in zip(slots, values, strict=False):
            self.state.write(slot, value, one.guard)


def _width(one: Instruction) -> int:
    """How many registers a load or store takes, at each operand."""
    parts = set(one.parts)
    if "256" in parts and len(one.results) == 1:
        return 8
    if one.name in ("LDSM", "STSM", "LDGMC") or {"128", "256", "V4"} & parts:
        return 4
    if {"64", "F64", "U64", "S64", "V2", "96"} & parts:
        return 3 if "96" in parts else 2
    return 1
