"""What a kernel does through its parameters, told from its machine code.

The analysis follows what each register may be along all ways through the code, until nothing new is found; then it
looks at each load and store once. An address takes two registers. The upper one tells whose address it is, since an
offset that fits into 32 bits leaves nothing there but its sign.
"""

import heapq
from collections.abc import Iterator
from typing import Final

from interop.ledger.kernels.sass_memory import Memory
from interop.ledger.kernels.sass_names import MEANS
from interop.ledger.kernels.sass_state import State, opposite
from interop.ledger.kernels.sass_text import Code, Instruction
from interop.ledger.kernels.sass_values import Frame, width_of_result
from interop.ledger.kernels.values import HARMLESS, NUMBER, VARIABLE, Access, only

_Place = tuple[tuple[int, ...], int]
"""The calls that are open, by where each returns to; and an instruction."""

_MOST_STEPS: Final = 400_000
_DEEPEST: Final = 20
_ARITHMETIC: Final = ("__cuda_sm", "__internal_")


def access(code: Code, frame: Frame) -> Access:
    """What the kernel does whose code this is."""
    run = _Run(code, frame)
    while run.news and run.steps < _MOST_STEPS:
        run.news = False
        run.follow()
    run.recording = True
    if run.steps >= _MOST_STEPS:
        run.lost("its code is too long to be followed")
        run.entered.clear()
    for place, state in run.entered.items():
        for _ in run.block(place, state.copy()):
            pass
    return run.effects.access(frame.parameters)


class _Run(Memory):
    """The analysis of one kernel."""

    def __init__(self, code: Code, frame: Frame) -> None:
        super().__init__(frame)
        self.code = code
        self.steps = 0
        self.entered: dict[_Place, State] = {}
        self.recursive: set[int] = set()
        self.functions: dict[str, list[Instruction]] = {}
        ends = (i + 1 for i, one in enumerate(code.instructions) if MEANS.get(one.name) == "jump")
        self.leaders = {*code.labels.values(), *ends}

    def follow(self) -> None:
        """Find what may be in the registers at the beginning of each block."""
        self.entered = {((), 0): State()}
        waiting: list[_Place] = [((), 0)]
        while waiting and self.steps < _MOST_STEPS:
            place = heapq.heappop(waiting)
            for following_place, state in self.block(place, self.entered[place].copy()):
                known = self.entered.get(following_place)
                if known is None:
                    self.entered[following_place] = state
                elif not known.merge(state):
                    continue
                if following_place not in waiting:
                    heapq.heappush(waiting, following_place)

    def block(self, place: _Place, state: State) -> Iterator[tuple[_Place, State]]:
        """Run from a place to where the ways part or meet; the places that may follow."""
        calls, at = place
        self.state = state
        while at < len(self.code.instructions):
            self.steps += 1
            one = self.one = self.code.instructions[at]
            at += 1
            if one.guard in ("!PT", "!UPT"):
                continue
            if MEANS.get(one.name) == "jump":
                yield from self.control(one, calls, at)
                return
            self.step(one)
            for predicate in one.predicates:
                state.changed(predicate)
            if at in self.leaders:
                yield (calls, at), state
                return

    def control(self, one: Instruction, calls: tuple[int, ...], after: int) -> Iterator[tuple[_Place, State]]:
        """Where an instruction that jumps leads, and what is in the registers there."""
        guards, more = _conditions(one)
        for place in self.goals(one, calls, after):
            state = self.state.copy()
            for guard in guards:
                state.assume(guard)
            yield place, state
        if guards or more:
            if len(guards) == 1 and not more:
                self.state.assume(opposite(guards[0]))
            yield (calls, after), self.state

    def goals(self, one: Instruction, calls: tuple[int, ...], after: int) -> list[_Place]:
        """Where an instruction leads if it jumps."""
        labels = [self.code.labels[goal] for goal in one.goals if goal in self.code.labels]
        if one.name == "CALL":
            return self.call(one, labels, calls, after)
        if one.name == "RET":
            again = [(calls, calls[-1])] if calls and calls[-1] in self.recursive else []
            return [(calls[:-1], calls[-1]), *again] if calls else []
        if len(labels) < len(one.goals) or not (labels or one.name in ("EXIT", "KILL", "RTT", "WARPSYNC")):
            if one.name in ("BRA", "JMP"):
                self.lost("a jump out of the code that was seen")
            else:
                labels = sorted(set(self.code.labels.values()))
        return [(calls, label) for label in labels]

    def call(self, one: Instruction, labels: list[int], calls: tuple[int, ...], after: int) -> list[_Place]:
        """Where a call leads: into the function, or past it."""
        target = one.sources[0] if one.sources and not one.sources[0].startswith("`") else ""
        if labels and not target:
            if self.computes(one.goals[0], labels[0]):
                return [(calls, after)]
            if after in calls:
                self.recursive.add(after)
                calls = calls[: calls.index(after)]
            if len(calls) < _DEEPEST:
                return [((*calls, after), labels[0])]
        if target and not (self.frame.harmless and self.pair(target) == only(VARIABLE)):
            self.lost("a call through a pointer")
        elif not target and not HARMLESS.issuperset(one.goals):
            self.lost("a call of a function whose code was not seen")
        for register in ("R4", "R5"):
            self.state.write(register, only(VARIABLE), one.guard)
        return [(calls, after)]

    def computes(self, name: str, at: int) -> bool:
        """Run a function if it is one of the compiler's own that only compute numbers, such as a division."""
        if not any(part in name for part in _ARITHMETIC):
            return False
        if name not in self.functions:
            starts = (i for label, i in self.code.labels.items() if not label.startswith(".L") and i > at)
            body = self.code.instructions[at : min(starts, default=None)]
            means = {"call" if one.name == "CALL" else MEANS.get(one.name) for one in body}
            self.functions[name] = [] if means & {"load", "store", "call", None} else body
        for one in self.functions[name]:
            self.assign([NUMBER] * max(2, width_of_result(one)), one.results)
            for predicate in one.predicates:
                self.state.changed(predicate)
        return bool(self.functions[name])

    def step(self, one: Instruction) -> None:
        """Run one instruction that does not jump."""
        means = MEANS.get(one.name)
        if means == "load":
            self.load(one)
        elif means == "store":
            self.store(one)
        else:
            self.compute(one)


def _conditions(one: Instruction) -> tuple[list[str], bool]:
    """On which predicates a jump is taken, and whether it depends on something else too."""
    guards = [one.guard] if one.guard else []
    if one.name not in ("BRA", "JMP", "EXIT"):
        return guards, one.name == "WARPSYNC"
    own = [*one.predicates, *(text for text in one.sources if text.startswith("!"))]
    return guards + own, len(one.sources) + len(one.predicates) > len(one.goals) + len(own)
