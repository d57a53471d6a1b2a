"""Why goals are missed: what the time goes into, what was tried, and what would be needed. For the report.

The figures are of the code as it is, and to be taken anew when it changes.
"""

from collections.abc import Mapping
from typing import Final

HOW: Final = (
    "Instructions are counted by callgrind, and times taken, over CUDA calls that do nothing, on a CPU (AMD EPYC) "
    "with Python 3.11.7: not on the machine of the run above, and of the code as it is now, which may be later than "
    "the run's, where nothing else is said."
)

_ASKED: Final = (
    "Interop makes three calls of the driver more than the others do: whether the stream captures, since to ask it "
    "anything would break that capture, and the thread's capture mode out and back, since to ask any stream would "
    "break a capture in the modes global and thread-local. From C, on the H100 of 2026-11-26, the first takes 16 ns "
    "and the other two 7 ns each, of 30 ns that interop is behind; the query itself takes 160. Tried: all four share "
    "one release of the GIL. Needed: a call of the driver that breaks no capture; or not to look. That is not wanted."
)

WHY: Final[Mapping[tuple[str, str | None], str]] = {
    ("wait_event", "cuda.core"): (
        "A call takes 754 instructions with the loop around it: 406 (54 %) give the GIL up and take it again, 276 (37 "
        "%) are the interpreter's, 67 (9 %) interop's, and 5 those of the stand-ins for CUDA. That is 47 ns; in a "
        "build that keeps the GIL, 20 ns. Interop makes one CUDA call more than C does: it asks whether the stream "
        "captures, so that no capture is broken. Tried: both calls share one release of the GIL, and the class of the "
        "event is compared before its bases are searched, which makes 754 of 780 instructions. Needed: to keep the "
        "GIL, and let other threads stand still while the driver is busy; or not to ask. Neither is wanted."
    ),
    ("query", "CuPy"): _ASKED,
    ("synchronize", "cuda.core"): _ASKED,
}
"""By operation and what it is measured against, as in a Goal."""
