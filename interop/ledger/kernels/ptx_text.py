"""PTX as its functions: their parameters, and their instructions with the operands apart."""

import re
from dataclasses import dataclass
from typing import Final

_COMMENT: Final = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_LINE: Final = re.compile(r"^\s*\.(?:loc|file)\b[^\n]*", re.MULTILINE)
_FUNCTION: Final = re.compile(
    r"\.(entry|func)\b\s*(?:\(([^)]*)\)\s*)?([\w$%.]+)\s*(?:\(([^)]*)\))?[^{};]*([{;])", re.DOTALL
)
_PARAMETER: Final = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.([a-z]+)(\d*)\b.*?([\w$%]+)\s*(?:\[\s*(\d*)\s*\])?\s*$", re.DOTALL
)
_VARIABLE: Final = re.compile(r"\.(shared|local|global|const)\s([^;={}(),]*?)([\w$%]+)\s*(?:\[[^;={}]*)?[;=]")
_START: Final = re.compile(r"(?:[{}\s]|[$%\w.]+\s*:(?!:))*(?:@\s*!?\s*[%$\w]+\s+)?")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction.

    Attributes:
        parts: the parts of its name: ``["ld", "global", "u64"]``.
        operands: its operands as text; vectors and addresses with their brackets.
    """

    parts: list[str]
    operands: list[str]


@dataclass(frozen=True, slots=True)
class Function:
    """A kernel or a device function.

    Attributes:
        kernel: whether it is a kernel.
        parameters: their names, and where each begins, in bytes from the first.
        results: the names of what it returns.
        code: its instructions; ``None`` if PTX only declares it.
    """

    kernel: bool
    parameters: dict[str, int]
    results: list[str]
    code: list[Instruction] | None


@dataclass(frozen=True, slots=True)
class Text:
    """The functions of one PTX text, and its variables: each the memory in which it lies."""

    functions: dict[str, Function]
    variables: dict[str, str]


def parsed(text: str) -> Text:
    """PTX, taken apart."""
    text = _LINE.sub("", _COMMENT.sub(" ", text))
    variables = {match[3]: match[1] for match in _VARIABLE.finditer(text)}
    functions: dict[str, Function] = {}
    at = 0
    while match := _FUNCTION.search(text, at):
        kind, results, name, parameters, ends = match.groups()
        at = match.end()
        code = None
        if ends == "{":
            end = _closing(text, at)
            code = _instructions(text[at:end])
            at = end
        elif name in functions:
            continue
        functions[name] = Function(kind == "entry", _offsets(parameters or ""), list(_offsets(results or "")), code)
    return Text(functions, variables)


def _closing(text: str, at: int) -> int:
    """Where the brace closes that was opened before *at*."""
    depth = 1
    for match in re.finditer(r"[{}]", text[at:]):
        depth += 1 if match[0] == "{" else -1
        if not depth:
            return at + match.start()
    return len(text)


def _offsets(declared: str) -> dict[str, int]:
    """The parameters of a declaration, and their offsets."""
    found = {}
    at = 0
    for one in declared.split(","):
        match = _PARAMETER.search(one.strip())
        if match is None:
            if one.strip():
                found[one.split()[-1]] = -1  # in a register
            continue
        before, _, bits, name, count = match.groups()
        size = int(bits or 8) // 8
        align = int(before or size)
        at = (at + align - 1) // align * align
        found[name] = at
        at += size * int(count or 1)
    return found


def _instructions(body: str) -> list[Instruction]:
    found = []
    for part in body.split(";"):
        start = _START.match(part)
        statement = part[start.end() if start else 0 :].strip()
        if not statement or statement.startswith("."):
            continue
        name, *rest = statement.split(None, 1)
        found.append(Instruction(name.split("."), split(rest[0] if rest else "")))
    return found


def split(text: str) -> list[str]:
    """Operands, by the commas outside of brackets."""
    parts, depth, last = [], 0, 0
    for i, char in enumerate(text):
        depth += (char in "[({") - (char in "])}")
        if char == "," and not depth:
            parts.append(text[last:i].strip())
            last = i + 1
    return [part for part in (*parts, text[last:].strip()) if part]
