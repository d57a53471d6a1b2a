"""One driver call of the program, as it was recorded."""

from types import CodeType
from typing import NamedTuple


class Call(NamedTuple):
    """A record. What *a*, *b*, *c* and *d* are depends on its kind.

    - ``launch``: the function's handle, whether it may start before the work before it ends, whether it is cooperative.
    - ``copy``, ``host copy``: to, from, bytes written, bytes read. ``set``, ``host set``: the address, -, bytes. With
      ``host``, the host waits for it.
    - ``record``, ``wait``: the event, flags. ``event done``, ``event gone``: the event. ``event made``: the event,
      flags.
    - ``stream made``: the stream, flags. ``stream gone``: the stream. ``stream done``, ``context done``: nothing.
      What is done, the host has waited for; or it has asked, and heard that it is done.
    - ``alloc``, ``free``: the address, -, bytes; on a stream if they are ordered. ``host alloc``, ``host free``.
    - ``pool alloc``, ``pool free``: the same of a library's pool, told by the library.
    - ``array``: the address, -, bytes of an array, told by its library.
    - ``graph launch``: the graph. ``capture begins``, ``capture ends``, ``host function``: nothing.
    - ``value wait``, ``value write``: the address. ``module``: its number.
    - ``unseen``: work, or an order, that is not followed.

    Attributes:
        number: the order of the calls of all threads: taken when the call returned, or, if it frees or destroys
            something, when it was entered.
        kind: what the call does; see above.
        name: the driver's function.
        thread: the number of the native thread.
        context: the address of the context.
        stream: 1 for the legacy stream, 2 for the thread's own, else the handle; 0 if the call names none.
        non_blocking: whether that stream is exempt from the legacy stream's order.
        capturing: whether that stream was capturing a graph.
        symbol: the kernel's mangled name; else empty.
        words: of a launch, each word of 8 bytes of the parameters: its offset among all of them, and its value.
        walked: whether *words* has all parameters of the launch.
        place: the Python frames that made the call, innermost first: the code, and the line.
        time: when the call was recorded, in nanoseconds of the real-time clock.
    """

    number: int
    kind: str
    name: str = ""
    thread: int = 0
    context: int = 0
    stream: int = 0
    non_blocking: bool = False
    capturing: bool = False
    a: int = 0
    b: int = 0
    c: int = 0
    d: int = 0
    symbol: str = ""
    words: tuple[tuple[int, int], ...] = ()
    walked: bool = True
    place: tuple[tuple[CodeType, int], ...] = ()
    time: int = 0
