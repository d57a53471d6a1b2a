"""Which memory a call reads and writes, as far as that is known."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from interop._order.findings import Kind
from interop.ledger.driver.calls import Call
from interop.ledger.driver.memory import Allocations, Part
from interop.ledger.driver.reports import kernel_name
from interop.ledger.driver.views import view
from interop.ledger.layout import Layout, block


class Access(Protocol):
    """What a kernel does through its parameters: :class:`interop.ledger.kernels.Access`."""

    @property
    def why(self) -> str:
        """Why it only may write through some words."""

    @property
    def reads(self) -> frozenset[int]:
        """The words through which it surely reads."""

    def of(self, offset: int) -> Kind | None:
        """What it does through the word at *offset*."""


class Kernels(Protocol):
    """What is known of kernels: :class:`interop.ledger.kernels.Kernels`."""

    def access(self, symbol: str) -> Access | None:
        """What a kernel does; None if its code was not seen."""


class Touched(NamedTuple):
    """One access that a call makes."""

    kind: Kind
    layout: Layout
    part: Part | None
    doubt: str = ""


class Touches:
    """Tells what calls read and write. Remembers what it has told, until the memory changes."""

    def __init__(self, memory: Allocations, kernels: Kernels, unsure: dict[str, str]) -> None:
        """*unsure* is given the kernels that may write, but not surely, and why."""
        self._memory = memory
        self._kernels = kernels
        self._plans: dict[tuple[str, int], list[tuple[int, int, Kind, str]]] = {}
        self._unsure = unsure

    def of(self, call: Call) -> list[Touched]:
        """What a launch, a copy or a set reads and writes. Each part of memory once, by what is most."""
        found: Sequence[Touched | None]
        if call.kind == "launch":
            found = self._of_launch(call)
        elif call.kind in ("set", "host set"):
            found = [self._range(call, Kind.WRITE, call.a, call.c, sure=True)]
        else:
            found = [
                self._range(call, Kind.READ, call.b, call.d, sure=_has(call.name, "DtoH", "DtoD", "Peer")),
                self._range(call, Kind.WRITE, call.a, call.c, sure=_has(call.name, "HtoD", "DtoD", "Peer")),
            ]
        best: dict[Layout, Touched] = {}
        for one in found:
            if one is not None and one.layout.start < one.layout.stop:
                old = best.get(one.layout)
                if old is None or (one.kind, not one.doubt) > (old.kind, not old.doubt):
                    best[one.layout] = one
        return list(best.values())

    def code_changed(self) -> None:
        """Code was loaded: what is known of kernels may be more, or different."""
        self._plans.clear()

    def _range(self, call: Call, kind: Kind, address: int, size: int, *, sure: bool) -> Touched | None:
        """A range of bytes. *sure*: it is memory of a device; else None if it is memory of the host, not pinned."""
        memory = self._memory
        part = memory.last(address) if sure else memory.find(address) or memory.asked(address)
        if part is None and not sure:
            return None
        layout = block(address, size)
        return Touched(kind, layout._replace(at_most="2D" in call.name), part)

    def _of_launch(self, call: Call) -> list[Touched]:
        key = call.symbol, len(call.words)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = list(self._plan(call))
        found: list[Touched] = []
        words: dict[int, int] = {}
        for index, offset, kind, doubt in plan:
            value = call.words[index][1]
            part = self._memory.last(value)
            if part is not None:
                words = words or dict(call.words)
                layout = view(words, offset, part, by_cupy=call.symbol.startswith("cupy"))
                found.append(Touched(kind, layout, part, doubt))
        return found

    def _plan(self, call: Call) -> Iterator[tuple[int, int, Kind, str]]:
        """Which words of a kernel's launches may be addresses: where, the offset, what it does there, and any doubt."""
        access = self._kernels.access(call.symbol)
        name = kernel_name(call.symbol)
        if access is None:
            why = "its machine code was not seen"
        else:
            why = access.why or "what it does with its parameters could not be followed"
        for index, (offset, _) in enumerate(call.words):
            kind = Kind.MAYBE if access is None else access.of(offset)
            if kind is Kind.MAYBE:
                self._unsure[name] = why
            if kind is not None:
                is_sure = kind is Kind.WRITE or (access is not None and offset in access.reads)
                may = f"kernel {name!r} may {'write' if kind is Kind.MAYBE else 'read'} it: {why}"
                yield index, offset, kind, "" if is_sure else may


def _has(name: str, *parts: str) -> bool:
    return any(part in name for part in parts)
