"""What ran when, on which stream, and who waited for whom: a picture, a table, and a trace for Perfetto.

::

    with interop.Timeline() as timeline:
        with timeline.span("blur", stream):
            blur(...)  # work on that stream
        other.wait_stream(stream)  # becomes an arrow on its own
    timeline  # in a notebook, draws itself

Everything is measured by CUDA events: no profiler, and nothing waits until somebody looks.
"""

import unicodedata
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from interop import _cuda
from interop._order import watchers
from interop._safety import forks
from interop._safety.blocks import Block
from interop._show.text import plural
from interop._switching import stream_in_use
from interop.errors import InteropError
from interop.stream import as_stream
from interop.timeline.reading import Arrow, Lane, Reading, Row, Span, Table
from interop.timeline.recorder import Recorder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from interop.stream import ExternalStream

__all__ = ["Arrow", "Lane", "Reading", "Row", "Span", "Table", "Timeline"]


def _printable(name: str) -> str:
    if name.isprintable():
        return name
    unfit = {letter for letter in name if letter != "\n" and unicodedata.category(letter) in ("Cc", "Cs")}
    return "".join("\N{REPLACEMENT CHARACTER}" if letter in unfit else letter for letter in name)


class _Open(Block[None]):
    """A span that is being marked. Not a generator, which would cost as much again as the two records."""

    __slots__ = ("_entered", "_name", "_recorder", "_start", "_stream", "_timeline")

    _call = "timeline.span"

    def __init__(self, timeline: "Timeline", name: str, stream: "ExternalStream") -> None:
        self._timeline = timeline
        self._name = name
        self._stream = stream
        self._start: tuple[int, Lane | None] | None = None
        self._entered = False

    def __enter__(self) -> None:
        self._entered = True
        recorder = self._timeline._recording
        if recorder is None:
            message = (
                f"span {self._name!r} is outside of its timeline: put it into `with interop.Timeline() as timeline:`"
            )
            raise InteropError(message)
        if self._start is not None:
            message = f"span {self._name!r} is open already: mark what is inside of it by another timeline.span(...)"
            raise InteropError(message)
        self._recorder = recorder
        self._start = recorder.start(self._stream)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        start, self._start = self._start, None
        assert start is not None  # for mypy
        if self._timeline._recording is not None:
            self._recorder.span(self._name, start, self._recorder.tick(self._stream))


class Timeline:
    """Records spans of work, and the waits between streams, for as long as its ``with`` block runs.

    Spans are what :meth:`span` marks. Arrows come on their own: one for each wait that interop makes between two
    streams in the block, in whichever thread, by ``wait_stream``, ``wait_event``, ``handoff``, ``borrow`` and what
    uses them. Of an event, where it was recorded has to be known: by interop, in the block. Waits that a library makes
    by itself are not seen.

    A span costs two event records on its stream, an arrow one on each of its two streams, and an event that is
    recorded one; the events come from a list of spare ones. Nothing blocks the host until the timeline is read: by
    :attr:`spans`, :attr:`arrows`, :meth:`table`, :meth:`figure`, :meth:`save`, or by a notebook that shows it. That
    waits for the streams that it has seen. Read before the end of the block, it tells what was there by then.

    It shows what was marked and no more: a gap is time in which no span was open on a stream. A span begins when its
    stream comes to it, so a wait inside a span is part of it. The ends of an arrow are recorded after the wait that
    it stands for, on both streams, so they may be some microseconds late, and in the wrong order by as much. An event
    that a library has recorded again by itself since interop recorded it is taken for what it was.

    While a stream captures a graph nothing of it is recorded, and :attr:`Reading.notes` says how much is missing. On
    the legacy default stream a record counts as work, to CUDA too: blocking streams wait for it, as they do for the
    work around it. Each device has a clock of its own; those of several are compared with the host's when the
    timeline is read, and the notes say how exactly.

    A large timeline is drawn as far as it can be seen: short spans that lie close together become one bar, and of too
    many streams, arrows and rows some are left out. The picture says how much. The lists and the trace have it all.

    On the simulator, which has no clock, positions count kernels: a kernel is one step, and takes its place as soon as
    everything that it has to come after is done. The streams, and the owners of the borrowed ones, are kept alive
    until the timeline has been left and read.
    """

    _recording: Recorder | None = None
    """What records, for as long as the block runs."""

    def __init__(self) -> None:
        """Record nothing yet."""
        self._recorder: Recorder | None = None
        self._reading: Reading | None = None
        self._lock = forks.lock()

    def __enter__(self) -> Self:
        """Begin to record, on the GPU or on the simulation that is running.

        Raises:
            InteropError: it was entered before.
        """
        if self._recorder is not None or self._reading is not None:
            message = "this timeline was entered before, and records one block only: make another Timeline()"
            raise InteropError(message)
        recorder = Recorder(_cuda.active())
        try:
            self._recorder = self._recording = recorder
            watchers.watch(recorder)
            return self  # noqa: TRY300  (an interrupt before it is the last one that nobody else sees)
        except BaseException:
            self._recorder = self._recording = None
            watchers.unwatch(recorder)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the recording. Spans that are still open are left out."""
        recorder = self._recorder
        assert recorder is not None  # for mypy
        try:
            self._recording = None
            watchers.unwatch(recorder)
        except BaseException:
            watchers.unwatch(recorder)
            raise
        if recorder.simulated:
            self._read()  # a simulation may end before somebody looks, and there is nothing to wait for

    def __del__(self) -> None:
        """End a recording that a signal handler has left open, by raising before the first line of ``__exit__``."""
        if self._recording is not None:
            watchers.unwatch(self._recording)

    def span(self, name: str, stream: object = None) -> "_Open":
        """Mark the work that is given to a stream in this ``with`` block. Does not block the host.

        Args:
            name: what to call it. Spans of one name look the same. Control characters and lone surrogates, which not
                every file and terminal can take, are replaced.
            stream: anything that :func:`interop.as_stream` takes; by default the stream of the innermost
                ``with interop.use(stream):`` around it.

        Raises:
            InteropError: the timeline is not open; or this span is, and is entered again.
            InvalidStreamError: *stream* is no stream; or none was given, and no ``with`` block says which.
            NotSupportedError: the stream is of another GPU or simulation than the one that the timeline was entered on.
        """
        return _Open(self, _printable(str(name)), stream_in_use() if stream is None else as_stream(stream))

    # -- reading ---------------------------------------------------------------------------------------------------

    def _read(self) -> Reading:
        with self._lock:
            if self._reading is not None:
                return self._reading
            if self._recorder is None:
                return Reading("ms", (), (), (), 0, 0.0)
            reading = self._recorder.read()
            if self._recording is None:
                self._reading = reading
                self._recorder = None
            return reading

    @property
    def spans(self) -> tuple[Span, ...]:
        """The spans, in the order in which they were left. Blocks the host until the device is done with them."""
        return self._read().spans

    @property
    def arrows(self) -> tuple[Arrow, ...]:
        """The waits, in the order in which they were made. Blocks the host until the device is done with them."""
        return self._read().arrows

    def table(self) -> Table:
        """The numbers: a list of :class:`Row`, which draws itself. Blocks the host until the device is done.

        Milliseconds from the first record, or steps of the simulator; ``table.unit`` says which.
        """
        return Table(self._read())

    def figure(self) -> "Figure":
        """The picture, as a matplotlib figure of its own, outside of pyplot. Blocks the host until the device is done.

        Raises:
            LibraryNotFoundError: matplotlib is not installed.
        """
        from interop.timeline.picture import draw  # noqa: PLC0415  (matplotlib is slow to import, and an extra)

        return draw(self._read())

    def save(self, path: str | PathLike[str]) -> None:
        """Write a file. Blocks the host until the device is done.

        Args:
            path: ``*.json`` for a trace that Perfetto (https://ui.perfetto.dev) and ``chrome://tracing`` open; any
                ending that matplotlib knows, such as ``.png``, ``.svg`` and ``.pdf``, for the picture.

        Raises:
            LibraryNotFoundError: matplotlib is not installed, and this is a picture.
            ValueError: matplotlib does not know the ending.
        """
        path = Path(path)
        if path.suffix.lower() == ".json":
            from interop.timeline.trace import trace_text  # noqa: PLC0415  (not every timeline becomes one)

            path.write_text(trace_text(self._read()), encoding="utf-8")
        else:
            self.figure().savefig(path)

    def _repr_png_(self) -> bytes:
        from interop.timeline.picture import png  # noqa: PLC0415  (matplotlib is slow to import, and an extra)

        return png(self._read())

    def __repr__(self) -> str:
        """How much there is, without waiting for it."""
        if self._reading is not None:
            reading = self._reading
            simulated = "SIMULATED " if reading.unit == "steps" else ""
            spans, arrows = plural(len(reading.spans), "span"), plural(len(reading.arrows), "arrow")
            return f"<{simulated}interop.Timeline: {spans} and {arrows} on {plural(len(reading.lanes), 'stream')}>"
        if self._recorder is None:
            return "<interop.Timeline, not entered yet>"
        state = "not read yet" if self._recording is None else "recording"
        simulated = "SIMULATED " if self._recorder.simulated else ""
        what = plural(len(self._recorder), "span or arrow", "spans and arrows")
        return f"<{simulated}interop.Timeline: {what} so far, {state}>"
