"""Machine code, as ``nvdisasm`` prints it, as its instructions: each with its guard, its results and its sources."""

import functools
import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from interop.ledger.kernels.ptx_text import split
from interop.ledger.kernels.sass_names import MEANS

_LINE: Final = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*(?:\(\*|;)")
_LABEL: Final = re.compile(r"^([^\s:]+):\s*$")
_GOAL: Final = re.compile(r"`\(([^)]*)\)")
_TARGETS: Final = re.compile(r'BRANCH_TARGETS ([^"]*)"')
_PREDICATE: Final = re.compile(r"U?P[\dT]")
_REGISTER: Final = re.compile(r"U?R(?:\d+|Z)")
_CONSTANT: Final = re.compile(r"cx?\[(\w+)\]\s*\[(?:(U?R\w+)[.\w]*)?\+?(-?0x[0-9a-f]+)?\]")
_NUMBER: Final = re.compile(r"-?0x[0-9a-f]+")
_ZERO: Final = {"RZ", "URZ"}
_TOP: Final = 1 << 31


class Operand(NamedTuple):
    """One source of an instruction.

    Attributes:
        register: its first register; empty for zero and for everything else.
        bank: the constant bank in which it lies, such as ``0x0``; empty if it is no constant.
        offset: where in the bank, in bytes.
        indexed: a register is added to the offset.
        negative: it is subtracted.
        number: what it is, if it is a number.
    """

    register: str = ""
    bank: str = ""
    offset: int = 0
    indexed: bool = False
    negative: bool = False
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction.

    Attributes:
        parts: the parts of its name: ``("IMAD", "WIDE")``.
        guard: the predicate on which it runs, such as ``!P0``; empty if it always runs.
        predicates: the predicates that it sets.
        results: the first registers of its results.
        sources: what follows them, as text.
        goals: the labels that it names.
    """

    parts: tuple[str, ...]
    guard: str
    predicates: tuple[str, ...]
    results: tuple[str, ...]
    sources: tuple[str, ...]
    goals: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it is: ``IMAD``."""
        return self.parts[0]

    def address(self, which: int = 0) -> str:
        """One of the addresses among its sources: ``R2.64+0x10`` of ``desc[UR4][R2.64+0x10]``; empty if it has none."""
        found = [one[one.rindex("[") + 1 : -1] for one in self.sources if one.endswith("]") and not one.startswith("c")]
        return found[which] if which < len(found) else ""


@dataclass(frozen=True, slots=True)
class Code:
    """The instructions of one kernel and of the functions in its section; where its labels stand among them."""

    instructions: list[Instruction]
    labels: dict[str, int]


def parsed(text: str, kernel: str) -> Code:
    """The code of one kernel."""
    code = Code([], {})
    inside = False
    for line in text.splitlines():
        if line.startswith("\t.section\t"):
            inside = line.split("\t")[2].split(",")[0] == f".text.{kernel}"
        elif inside and (match := _LINE.match(line)):
            code.instructions.append(_instruction(match[1].strip("{ }"), line))
        elif inside and (match := _LABEL.match(line)):
            code.labels[match[1]] = len(code.instructions)
    return code


def _instruction(text: str, line: str) -> Instruction:
    guard = ""
    if text.startswith("@"):
        guard, _, text = text[1:].partition(" ")
    name, _, rest = text.strip().partition(" ")
    parts = tuple(name.split("."))
    targets = _TARGETS.search(line)
    goals = targets[1].split(",") if targets else _GOAL.findall(rest)
    predicates: list[str] = []
    results: list[str] = []
    operands = split(rest)
    at = 0
    compares = "SETP" in name or parts[0] in ("FCHK", "CSMTEST", "QSPC") or MEANS.get(parts[0]) == "jump"
    for at, one in enumerate([*operands, ""]):
        if _PREDICATE.fullmatch(one):
            predicates.append(one)
        elif _REGISTER.fullmatch(one) and not compares and (not results or _loads_more(parts, operands[at:])):
            results.append(one)
        elif one not in ("PR", "UPR"):
            break
        elif not results:
            predicates += [f"{one[:-1]}{i}" for i in range(7)]
    return Instruction(
        parts,
        "" if guard in ("PT", "UPT") else guard,
        tuple(predicates),
        tuple(one for one in results if one not in _ZERO),
        tuple(operands[at:]),
        tuple(goals),
    )


def _loads_more(parts: tuple[str, ...], operands: list[str]) -> bool:
    """Whether a second register is a result too: of a load of 32 bytes."""
    return "256" in parts and parts[0].startswith("LD") and len(operands) > 1 and operands[1].endswith("]")


@functools.lru_cache(1 << 14)
def operand(text: str) -> Operand:
    """A source, taken apart."""
    negative = text[:1] in ("-", "~")
    plain = text.lstrip("-~|!")
    if plain.startswith(("c[", "cx[")):
        match = _CONSTANT.match(plain)
        if match is None:
            return Operand(bank="other")
        bank = "other" if plain.startswith("cx") else match[1]
        indexed = match[2] is not None and match[2] not in _ZERO
        return Operand(bank=bank, offset=int(match[3] or "0", 16), indexed=indexed, negative=negative)
    if match := _REGISTER.match(plain):
        return Operand("" if match[0] in _ZERO else match[0], negative=negative)
    number = None
    if _NUMBER.fullmatch(text):
        number = int(text, 16)
        number -= 2 * _TOP if number >= _TOP else 0
    return Operand(number=number)


@functools.lru_cache(1 << 12)
def following(register: str, by: int) -> str:
    """The register that lies *by* registers after this one."""
    bank = register.rstrip("0123456789")
    return f"{bank}{int(register[len(bank) :]) + by}"
