"""What kernels do through their parameters, told from PTX.

The analysis does not ask in which order instructions run: PTX gives nearly every value a register of its own. It
repeats until nothing new is found; then it looks at each load and store once.
"""

import re
from collections.abc import Iterable
from typing import Final

from interop.ledger.kernels.ptx_text import Instruction, Text, parsed, split
from interop.ledger.kernels.values import (
    CHOSEN,
    FAR,
    HARMLESS,
    LOADED,
    LOCAL,
    NOTHING,
    NUMBER,
    SHARED,
    VARIABLE,
    Access,
    Effects,
    Term,
    Value,
    added,
    joined,
    moved,
    only,
    subtracted,
)

Arguments = dict[str, dict[int, Value]]
"""What a device function is given, by parameter and offset."""

_NAME: Final = re.compile(r"(?<![\w$%])[%$A-Za-z_][\w$%]*(?:\.[xyzw])?")
_OFFSET: Final = re.compile(r"\+\s*(-?\d+)\s*\]?$")
_SPACES: Final = {"local": LOCAL, "shared": SHARED, "global": VARIABLE, "const": VARIABLE}
_KEEPS: Final = {"mov", "cvta", "and", "or", "xor", "min", "max", "prmt", "shfl", "mapa", "add", "addc", "mad", "fma"}
"""The instructions whose result is an address if an operand is; beside those that are handled by name."""
_WIDE: Final = {"u64", "s64", "b64", "b128"}
_DEEPEST: Final = 20


def accesses(text: str) -> dict[str, Access]:
    """What each kernel of PTX *text* does through its parameters, by the kernel's symbol."""
    module = parsed(text)
    return {name: _kernel(module, name) for name, function in module.functions.items() if function.kernel}


def _kernel(module: Text, name: str) -> Access:
    function = module.functions[name]
    run = _Run(module)
    while run.changed:
        run.changed = False
        run.done.clear()
        run.call(name, {}, dict(function.parameters))
    run.recording = True
    run.done.clear()
    run.call(name, {}, dict(function.parameters))
    return run.effects.access(function.parameters.values())


class _Run:
    """The analysis of one kernel, with the device functions that it calls."""

    def __init__(self, module: Text) -> None:
        self.module = module
        self.effects = Effects()
        self.changed = True
        self.recording = False
        self.registers: dict[tuple[object, str], Value] = {}
        self.memory: dict[str, Value] = {LOCAL: NOTHING, SHARED: NOTHING}
        self.done: set[object] = set()
        self.active: list[str] = []

    def call(self, name: str, arguments: Arguments, kernel: dict[str, int]) -> object:
        """Follow one function; a kernel has its parameters' offsets, a device function has *arguments*.

        Returns:
            The key under which its results lie among the registers.
        """
        key = (name, tuple(sorted((at, tuple(sorted(parts.items()))) for at, parts in arguments.items())))
        if key not in self.done:
            self.done.add(key)
            self.active.append(name)
            _Body(self, key, arguments, kernel).run(self.module.functions[name].code or [])
            self.active.pop()
        return key

    def put(self, key: object, name: str, value: Value) -> None:
        """Add what a register may be."""
        old = self.registers.get((key, name), NOTHING)
        new = joined((old, value))
        if new != old:
            self.registers[key, name] = new
            self.changed = True

    def keep(self, space: str, value: Value) -> None:
        """Add what is stored in local or shared memory: which byte of it is not followed."""
        new = joined((self.memory[space], value))
        if new != self.memory[space]:
            self.memory[space] = new
            self.changed = True


class _Body:
    """One function with one set of arguments."""

    def __init__(self, run: _Run, key: object, arguments: Arguments, kernel: dict[str, int]) -> None:
        self.of_run = run
        self.key = key
        self.arguments = arguments
        self.kernel = kernel
        self.given: Arguments = {}
        self.results: dict[str, Value] = {}
        self.assigned: set[str] = set()

    def run(self, code: list[Instruction]) -> None:
        for one in code:
            if one.operands and not one.operands[0].startswith("[") and one.parts[0] not in ("call", "bra", "bar"):
                self.assigned |= set(_NAME.findall(one.operands[0]))
        for one in code:
            self.step(one)

    # -- values

    def name(self, name: str) -> Value:
        """What a register, variable or parameter is."""
        if name in self.kernel:
            return only(("parameter", self.kernel[name]))
        if name in self.arguments:
            return joined(self.arguments[name].values())
        if name in self.assigned:
            return self.of_run.registers.get((self.key, name), NOTHING)
        space = self.of_run.module.variables.get(name)
        if space is not None:
            return only(_SPACES[space])
        return only(VARIABLE) if name in self.of_run.module.functions else NUMBER

    def value(self, operand: str) -> Value:
        """What an operand is: a register, a number, a vector, or the address in brackets."""
        found = [self.name(name) for name in _NAME.findall(operand)]
        if any(one == NOTHING for one in found):
            return NOTHING
        more = _OFFSET.search(operand)
        return moved(added(found), int(more[1]) if more else 0)

    def assign(self, operand: str, value: Value) -> None:
        for name in _NAME.findall(operand):
            self.of_run.put(self.key, name, value)

    # -- instructions

    def step(self, one: Instruction) -> None:
        name, operands = one.parts[0], one.operands
        if not operands:
            return
        if name in ("ld", "ldu"):
            self.load(one)
        elif name in ("st", "atom", "red", "multimem", "stmatrix", "discard", "tensormap"):
            self.access(one)
        elif name == "cp":
            self.copy(one)
        elif name == "call":
            self.called(operands)
        elif name in ("sust", "sured"):
            self.lost("a store to a surface")
        elif name in ("tex", "tld4", "suld"):
            self.assign(operands[0], only(LOADED))
        elif len(operands) > 1 and not operands[0].startswith("["):
            self.assign(operands[0], self.computed(one))

    def computed(self, one: Instruction) -> Value:
        name, sources = one.parts[0], one.operands[1:]
        if name == "ldmatrix":
            return self.of_run.memory[SHARED]
        if name == "selp":
            return joined(map(self.value, sources[:2]))
        if name in ("sub", "subc"):
            return subtracted(self.value(sources[0]), self.value(sources[1]))
        if name == "add" and re.fullmatch(r"-?\d+", sources[1]):
            return moved(self.value(sources[0]), int(sources[1]))
        if name in ("mad", "fma"):
            sources = ["0", sources[2]]
        if name in _KEEPS or (name == "cvt" and {"u64", "s64"} >= set(one.parts[-2:])):
            found = [self.value(source) for source in sources]
            return NOTHING if NOTHING in found else moved(added(found), FAR if len(found) > 1 else 0)
        return NUMBER

    def load(self, one: Instruction) -> None:
        address = one.operands[1]
        spaces = {part.partition("::")[0] for part in one.parts}
        if self.of_run.recording and not spaces & {"local", "shared", "const", "param"}:
            self.of_run.effects.read(self.value(address))
        for i, name in enumerate(_NAME.findall(one.operands[0])):
            value = NUMBER
            if one.parts[-1] in _WIDE:
                value = self.parameter(address, 8 * i) if "param" in spaces else self.content(spaces, address, 8 * i)
            self.of_run.put(self.key, name, value)

    def content(self, spaces: set[str], address: str, more: int) -> Value:
        """The eight bytes at *more* bytes after *address*."""
        return joined(self.loaded(spaces, one) for one in moved(self.value(address), more))

    def loaded(self, spaces: set[str], alternative: frozenset[Term]) -> Value:
        """What is loaded from one address."""
        for space in (LOCAL, SHARED):
            if space in spaces or space in alternative:
                return self.of_run.memory[space]
        for term in alternative:
            if isinstance(term, tuple):
                return only(term[1] // 8 * 8 if term[1] >= 0 else CHOSEN)
        return only(LOADED)

    def parameter(self, address: str, more: int) -> Value:
        """What lies in the parameters, or in what a call was given or returned."""
        name = _NAME.findall(address)[0]
        offset = _OFFSET.search(address)
        at = more + (int(offset[1]) if offset else 0)
        if name in self.kernel:
            return only((self.kernel[name] + at) // 8 * 8)
        if name in self.arguments:
            parts = self.arguments[name]
            return parts[at] if at in parts else joined(parts.values())
        if name in self.results:
            return self.results[name]
        return self.content({"param"}, address, more)

    def access(self, one: Instruction) -> None:
        name = one.parts[0]
        brackets = [i for i, operand in enumerate(one.operands) if operand.startswith("[")]
        where = self.value(one.operands[brackets[0]]) if brackets else NOTHING
        stored = [operand for i, operand in enumerate(one.operands) if i > brackets[0]] if brackets else []
        if name == "st" and any(part.startswith("param") for part in one.parts):
            self.give(one)
            return
        if name in ("atom", "multimem") and brackets and brackets[0] > 0:
            self.assign(one.operands[0], only(LOADED) if one.parts[-1] in _WIDE else NUMBER)
        spaces = {space for space in (LOCAL, SHARED) if space in one.parts or any(space in a for a in where)}
        for space in spaces | ({SHARED} if any(SHARED in part for part in one.parts) or name == "stmatrix" else set()):
            for part in (part for operand in stored for part in split(operand.strip("{}"))):
                if (value := self.value(part)) != NUMBER or one.parts[-1] in _WIDE:
                    self.of_run.keep(space, value)
            if any(space in part for part in one.parts) or name == "stmatrix":
                return
        if not self.of_run.recording:
            return
        if name in ("atom", "red") or "ld_reduce" in one.parts:
            self.of_run.effects.read(where)
        if "ld_reduce" not in one.parts:
            self.of_run.effects.written(where)

    def copy(self, one: Instruction) -> None:
        """The asynchronous copies: between shared and global memory, and by descriptors of tensors."""
        brackets = [operand for operand in one.operands if operand.startswith("[")]
        spaces = [part.partition("::")[0] for part in one.parts if part.partition("::")[0] in ("shared", "global")]
        if not brackets or "prefetch" in one.parts:
            return
        to_global = "bulk" in one.parts and spaces[:1] == ["global"]
        if not to_global:
            self.of_run.keep(SHARED, only(LOADED))
            if spaces[1:2] == ["shared"] or len(brackets) < 2:  # noqa: PLR2004
                return
        where = brackets[0 if to_global else 1]
        if "tensor" in one.parts:
            found = self.value(split(where[1:-1])[0])
            # The address of the array is the first word of its descriptor.
            address = joined(self.loaded({"param"}, alternative) for alternative in found)
        else:
            address = self.value(where)
        if self.of_run.recording:
            (self.of_run.effects.written if to_global else self.of_run.effects.read)(address)
            if "reduce" in one.parts:
                self.of_run.effects.read(address)

    # -- calls

    def give(self, one: Instruction) -> None:
        """Store an argument of a call, or a result of this function."""
        name = _NAME.findall(one.operands[0])[0]
        offset = _OFFSET.search(one.operands[0])
        value = joined(self.value(part) for part in split(one.operands[1].strip("{}")))
        if one.parts[-1] not in _WIDE:
            value = NUMBER
        self.of_run.put(self.key, f"result {name}", value)
        self.given.setdefault(name, {})[int(offset[1]) if offset else 0] = value

    def called(self, operands: list[str]) -> None:
        results = split(operands[0][1:-1]) if operands[0].startswith("(") else []
        name = operands[len(results) > 0] if len(operands) > (len(results) > 0) else operands[0]
        lists = [operand for operand in operands[1 if results else 0 :] if operand.startswith("(")]
        names = split(lists[0][1:-1]) if lists else []
        given = [self.given.pop(one, {0: self.value(one)}) for one in names]
        function = self.of_run.module.functions.get(name)
        deep = len(self.of_run.active) >= _DEEPEST or name in self.of_run.active
        if function is None or function.code is None or deep or -1 in function.parameters.values():
            self.unknown(name, given)
            for result in results:
                self.results[result] = only(VARIABLE if name == "malloc" else LOADED)
            return
        key = self.of_run.call(name, dict(zip(function.parameters, given, strict=False)), {})
        for result, inner in zip(results, function.results, strict=False):
            self.results[result] = self.of_run.registers.get((key, f"result {inner}"), NUMBER)

    def unknown(self, name: str, given: Iterable[dict[int, Value]]) -> None:
        if name in HARMLESS or not self.of_run.recording:
            return
        why = f"a call of {name}, whose code was not seen" if not name.startswith("%") else "a call through a pointer"
        for value in (value for parts in given for value in parts.values()):
            self.of_run.effects.passed(value, why)
            for space in (LOCAL, SHARED):
                if any(space in one for one in value):
                    self.of_run.effects.passed(self.of_run.memory[space], why)

    def lost(self, why: str) -> None:
        if self.of_run.recording:
            self.of_run.effects.lost(why)
