"""Why goals are missed: what the time goes into, what was tried, and what would be needed. For the report.

The figures are of the code as it is, and to be taken anew when it changes.
"""

from collections.abc import Mapping
from typing import Final

HOW: Final = (
    "Instructions are counted by callgrind, and times taken, over CUDA calls that do nothing, on a CPU (AMD EPYC) "
    "with Python 3.11.7: not on the machine of the run above, and of the code as it is now, which may be later than "
    "the run's."
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
    ("as_stream, cuda.core's stream", None): (
        "A call takes 3.7 us (33,700 instructions). 1.2 us is a system call, through ctypes, that finds out whether "
        "the address can be read; asking the object for its handle, each time, since it can be closed, takes 0.1 us; "
        "the rest is the making of an `ExternalStream` in Python. Tried: what a handle of 0 means is asked of the "
        "environment only where there is one, which makes 3.7 of 4.7 us. Needed: to remember the stream with the "
        "object, and to ask in C whether the handle is still that one."
    ),
    ("enter and leave, CuPy and torch together (torch: alone)", "torch"): (
        "A block takes 41,600 instructions with stand-ins for both libraries: 7,600 in `use(...)`, 2,200 for any "
        "`with` of two methods in Python, and the rest to enter and leave; of that, 5,500 in the adapters, 4,700 for "
        "three looks at the current context, and 4,000 for one `contextlib.suppress`. Tried: a library that is named "
        "is found at once the second time. It was looked up anew for each block, which took 71,200 instructions, and "
        "was so in the run of 2026-11-22. Needed: a run, to see whether that is enough; else to enter and leave in C."
    ),
}
"""By operation and what it is measured against, as in a Goal."""
