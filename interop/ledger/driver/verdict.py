"""What the driver's eye has found, and what it could not judge."""

from dataclasses import replace
from typing import Final

from interop._order.findings import Finding
from interop.ledger.tally import KEPT

_KERNELS_SHOWN: Final = 5


class Verdict:
    """What was found, and what was not seen.

    Attributes:
        findings: each finding once, and how often it was made.
        left_out: how often others were made.
        unsure: the kernels that may write, but not surely, and why.
    """

    def __init__(self) -> None:
        """Start with nothing found."""
        self.findings: dict[Finding, int] = {}
        self.left_out = 0
        self.unsure: dict[str, str] = {}
        self._not_seen: dict[str, int] = {}
        self._doubt = ""

    def find(self, finding: Finding) -> None:
        """Add a finding."""
        finding = self._doubted(finding)
        if finding in self.findings or len(self.findings) < KEPT:
            self.findings[finding] = self.findings.get(finding, 0) + 1
        else:
            self.left_out += 1

    def doubt(self, why: str) -> None:
        """Nothing is certain, whatever was found and will be. *why* says why."""
        self._doubt = why
        self.findings = {self._doubted(one): count for one, count in self.findings.items()}

    def not_seen(self, sentence: str) -> None:
        """Something could not be judged. The sentence has ``{}`` where it says how often."""
        self._not_seen[sentence] = self._not_seen.get(sentence, 0) + 1

    @property
    def blind(self) -> list[str]:
        """What was seen and could not be judged, in words."""
        told = [sentence.format(count) for sentence, count in self._not_seen.items()]
        if self._doubt:
            told.append(f"{self._doubt}: nothing is certain")
        if self.unsure:
            names = [f"{name!r} ({why})" for name, why in list(self.unsure.items())[:_KERNELS_SHOWN]]
            more = f", and {len(self.unsure) - len(names)} more" if len(self.unsure) > len(names) else ""
            told.append(f"kernels that may write to what they are given: {', '.join(names)}{more}")
        return told

    def _doubted(self, finding: Finding) -> Finding:
        return replace(finding, uncertainty=self._doubt) if self._doubt and not finding.uncertainty else finding
