"""What the results of instructions are that load and store nothing, in terms of the parameters of the kernel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from interop.ledger.kernels.sass_names import MEANS
from interop.ledger.kernels.sass_state import State
from interop.ledger.kernels.sass_text import Instruction, following, operand
from interop.ledger.kernels.values import (
    CHOSEN,
    FAR,
    LOADED,
    LOCAL,
    NUMBER,
    SHARED,
    VARIABLE,
    ZERO,
    Effects,
    Term,
    Value,
    added,
    aimed,
    joined,
    mixed,
    moved,
    number,
    only,
    subtracted,
    unsure,
)

_RZ: Final = operand("RZ")


@dataclass(frozen=True, slots=True)
class Frame:
    """How a kernel gets its parameters, and what it calls.

    Attributes:
        base: where they begin in constant bank 0, in bytes.
        size: how many bytes they take.
        parameters: where each begins, in bytes from the first.
        harmless: the functions that it may call by constant bank 4 write through none of its parameters.
    """

    base: int
    size: int
    parameters: tuple[int, ...] = ()
    harmless: bool = False

    def constant(self, at: int) -> Value:
        """What lies at this byte of constant bank 0."""
        if 0 <= at - self.base < self.size:
            return only((at - self.base) // 8 * 8)
        # The address of the stack; and the address of the parameters, or of what lies before them.
        windows: dict[int, Term] = {0x20: LOCAL, 0x198: ("parameter", -0x30)}
        if self.base >= 0x300:  # noqa: PLR2004
            windows = {0x2F8: LOCAL, 0x348: ("parameter", 0)}
        term = windows.get(at & ~7)
        return NUMBER if term is None else only(term)


class Values:
    """The instructions of one kernel, one after the other: what each computes.

    Attributes:
        state: what is in the registers.
        one: the instruction that runs.
        recording: the states are known; now it is noted what the kernel does.
    """

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.effects = Effects()
        self.recording = False
        self.state = State()
        self.one = Instruction(("NOP",), "", (), (), (), ())

    def lost(self, why: str) -> None:
        """Something is not followed."""
        if self.recording:
            self.effects.lost(why)

    def value(self, text: str, part: int = 0) -> Value:
        """What a source is: its register or constant that is *part* registers after the first."""
        one = operand(text)
        if one.register:
            return self.state.read(following(one.register, part), self.one.guard)
        if one.bank == "0x0":
            return only(CHOSEN) if one.indexed else self.frame.constant(one.offset + 4 * part)
        if not one.bank:
            return only(ZERO) if one.number == 0 or one == _RZ else NUMBER
        if one.bank == "0x2":
            return NUMBER
        return only(VARIABLE if one.bank == "0x4" else LOADED)

    def pair(self, register: str) -> Value:
        """The address in two registers."""
        low = self.value(register)
        return low if any(isinstance(term, tuple) for one in low for term in one) else self.value(register, 1)

    def address(self, text: str) -> Value:
        """The address that is made of ``R2.64+UR4+0x10``."""
        pieces = [piece.partition(".") for piece in text.split("+")]
        several = sum("R" in register for register, _, _ in pieces) > 1
        found, more = [], 0
        for register, _, kind in pieces:
            if operand(register).register and not ("U32" in kind or kind.startswith("X")):
                value = self.pair(register)
                # Of two registers the first is an address of its own only if that is said.
                sure = not several or register.startswith("U") or "64" in kind
                found.append(value if sure else unsure(value))
            more += operand(register).number or 0
        if several:
            return moved(added(map(number, found)), FAR)
        return moved(aimed(added(found)), more)

    def total(self, sources: Sequence[str], part: int) -> Value:
        """The sum of the sources."""
        plus: list[Value] = []
        minus: list[Value] = []
        more = 0
        for text in sources:
            one = operand(text)
            more += one.number or 0
            if one.register or one.bank:
                (minus if one.negative else plus).append(number(self.value(text, part)))
        result = moved(added(plus), FAR if len(plus) + len(minus) > 1 else more)
        return subtracted(result, added(minus)) if minus else result

    def product(self, one: Instruction) -> list[Value]:
        """The product of two sources, and a third that is added."""
        left, right, more = one.sources[:3]
        if "WIDE" in one.parts:
            return [self.total([more], 0), self.total([more], 1)]
        for text, other in ((left, right), (right, left)):
            if operand(other).number in (1, -1) and "HI" not in one.parts:
                sign = "-" if operand(other).number == -1 else ""
                return [self.total([sign + text, more], 0)]
        if _RZ in (operand(left), operand(right)) and "MOV" in one.parts and not operand(more).negative:
            return [self.value(more)]
        value = self.total([more], 0)
        return [value if _RZ in (operand(left), operand(right)) else moved(value, FAR)]

    def shifted(self, one: Instruction) -> Value:
        """The first source shifted to the left, and the second added; of the upper half, with the third shifted."""
        numbers = [n for n in (operand(text).number for text in one.sources) if n is not None]
        sources = [one.sources[1]]
        if not numbers or not numbers[-1]:
            sources.append(one.sources[2 if "HI" in one.parts else 0])
        return moved(self.total(sources, 0), FAR)

    def compute(self, one: Instruction) -> None:
        """Run an instruction that neither loads nor stores."""
        means = MEANS.get(one.name)
        if means is None:
            self.lost(f"the instruction {one.name} is not known")
        parts = range(width_of_result(one))
        if means == "sum":
            found = [self.total(one.sources, part) for part in parts]
        elif means == "product":
            found = self.product(one)
        elif means == "shifted sum":
            found = [self.shifted(one)]
        elif means == "first":
            found = [self.value(one.sources[0], part) for part in parts]
        elif means == "choice":
            found = [joined(self.value(text, part) for text in one.sources[:2]) for part in parts]
        elif means == "number":
            upper = one.sources and one.sources[0].startswith("SR_SWIN")
            found = [only(SHARED if upper else ZERO) if upper or _is_zero(one) else NUMBER for _ in parts]
        else:
            found = []
        if len(found) < len(parts):
            mixture = mixed([self.value(text, part) for text in one.sources for part in parts])
            found += [mixture] * (len(parts) - len(found))
        self.assign(found)
        if one.results == ("R1",):
            self.move_stack(one)

    def assign(self, values: Sequence[Value], results: Sequence[str] | None = None) -> None:
        """Write the results of the instruction, or those of another one."""
        for first in self.one.results if results is None else results:
            for part, value in enumerate(values):
                self.state.write(following(first, part), value, self.one.guard)

    def move_stack(self, one: Instruction) -> None:
        """Follow the stack pointer, which is R1."""
        numbers = [n for n in (operand(text).number for text in one.sources) if n is not None]
        if any(operand(text).bank for text in one.sources):
            self.state.depth = 0
        elif self.state.depth is not None and one.sources[0] == "R1" and len(numbers) == 1 and not one.guard:
            self.state.depth += numbers[0]
        else:
            self.state.depth = None


def _is_zero(one: Instruction) -> bool:
    """Whether an instruction that computes numbers only sets its result to zero."""
    return one.sources in (("SRZ",), ("-RZ", "RZ", "0", "0"))


def width_of_result(one: Instruction) -> int:
    """How many registers the result of a computation takes."""
    name, parts = one.name, set(one.parts)
    if name.endswith("MMA"):
        return 4
    if name in ("F2I", "UF2I", "VIMNMX", "IMNMX"):
        return 2 if parts & {"64", "U64", "S64"} else 1
    if name in ("I2F", "F2F"):
        return 2 if one.parts[1:2] == ("F64",) else 1
    if name == "CS2R":
        return 1 if "32" in parts else 2
    return 2 if "64" in parts or name in ("DADD", "DFMA", "DMUL", "LEPC", "FADD2", "FFMA2", "FMUL2") else 1
