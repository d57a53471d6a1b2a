"""How much a ledger has seen, and what it has found."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from interop._order.findings import Finding

KEPT: Final = 1000
"""So many findings are kept. Others are only counted."""


class Tally(NamedTuple):
    """What was counted so far. Immutable, and replaced as a whole, so that a signal handler never sees a part."""

    accesses: int = 0
    captured: int = 0
    findings: Mapping[Finding, int] = MappingProxyType({})
    left_out: int = 0

    def since(self, before: "Tally") -> "Tally":
        """What was counted after *before*."""
        counts = {one: count - before.findings.get(one, 0) for one, count in self.findings.items()}
        found = {one: count for one, count in counts.items() if count > 0}
        captured, left_out = self.captured - before.captured, self.left_out - before.left_out
        return Tally(self.accesses - before.accesses, captured, found, left_out)

    def plus(self, accesses: int, findings: Iterable[Finding]) -> "Tally":
        """A new tally: this one, with *accesses* more accesses and with *findings* added."""
        found, left_out = dict(self.findings), self.left_out
        for finding in findings:
            if finding in found or len(found) < KEPT:
                found[finding] = found.get(finding, 0) + 1
            else:
                left_out += 1
        return Tally(self.accesses + accesses, self.captured, found, left_out)
