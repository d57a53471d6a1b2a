"""What ran when, on which stream, and which stream waited for which: a picture, a table, a trace for Perfetto.

:class:`Timeline` records it. CUDA events measure everything. No profiler is needed, and nothing blocks the host until
the timeline is read.
"""

import unicodedata
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Self

from interop import _cuda
from interop._core.habits import refuse_swapped
from interop._core.switching import stream_in_use
from interop._order import watchers
from interop._safety import forks
from interop._safety.blocks import Block
from interop._show.text import plural
from interop.errors import InteropError, LibraryNotFoundError
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
    """The ``with`` block of one span. A class, because a generator would cost as much as the two records."""

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
                f"span {self._name!r} is outside of its timeline: put it inside `with interop.Timeline() as timeline:`"
            )
            raise InteropError(message)
        if self._start is not None:
            message = f"span {self._name!r} is open already: for a span inside it, call timeline.span(...) again"
            raise InteropError(message)
        self._recorder = recorder
        self._start = recorder.start(self._stream)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        start, self._start = self._start, None
        assert start is not None  # for mypy
        if self._timeline._recording is not None:
            self._recorder.span(self._name, start, self._recorder.tick(self._stream))


class Timeline:
    """Records spans of work, and the waits between streams, inside its ``with`` block.

    Example::

        with interop.Timeline() as timeline:
            with timeline.span("write", producer):
                interop.testing.slow(producer, 5)  # milliseconds; your work
            consumer.wait_stream(producer)  # becomes an arrow
        timeline.save("trace.json")  # for Perfetto; in a notebook, the timeline draws itself

    :meth:`span` marks a span. Each wait that interop makes between two streams inside the block becomes an arrow, in
    whichever thread: by ``wait_stream``, ``wait_event``, ``handoff``, ``borrow``, and by what uses these. A wait for an
    event becomes an arrow if interop recorded the event inside the block. Waits that a library makes by itself are not
    seen.

    A span costs two event records on its stream. An arrow costs one record on each of its two streams, and a record of
    an event costs one more. The events come from a pool. Nothing blocks the host until the timeline is read: by
    :attr:`spans`, :attr:`arrows`, :meth:`table`, :meth:`figure`, :meth:`save`, or by a notebook that shows it. Reading
    waits for all streams of the timeline. A timeline that is read inside its block gives what was recorded so far.

    A gap is time in which no span was open on a stream. A span begins when its stream reaches it, so a wait inside a
    span is part of the span. The ends of an arrow are recorded after the wait, on both streams: each may be some
    microseconds late, and the two may be in the wrong order by as much. If a library records an event again by itself,
    the timeline does not see that, and uses the record that interop made.

    While a stream captures a graph, nothing is recorded on it, and :attr:`Reading.notes` says how much is missing. On
    the legacy default stream, a record is work to CUDA: blocking streams wait for it, as they do for the work around
    it. Each device has its own clock. When the timeline is read, the clocks of several devices are compared with the
    host's, and the notes give the error.

    The picture of a large timeline leaves out what could not be seen: short spans are grey, without a name, and some of
    the streams, arrows and rows are missing. The picture says how many. The lists and the trace are complete.

    The simulator has no clock. There, a position counts kernels: each kernel is one step, and runs as soon as all work
    before it is done. The streams, and the owners of borrowed streams, are kept alive until the timeline has been left
    and read.
    """

    _recording: Recorder | None = None
    """The recorder, while the block runs."""

    def __init__(self) -> None:
        """Make a timeline. It records nothing before it is entered."""
        self._recorder: Recorder | None = None
        self._reading: Reading | None = None
        self._lock = forks.lock()

    def __enter__(self) -> Self:
        """Begin to record: on the simulation that is running, else on the GPU.

        Raises:
            InteropError: the timeline was entered before.
        """
        if self._recorder is not None or self._reading is not None:
            message = "this timeline was entered before, and a timeline records one block only: make another Timeline()"
            raise InteropError(message)
        recorder = Recorder(_cuda.active())
        try:
            self._recorder = self._recording = recorder
            watchers.watch(recorder)
            return self  # noqa: TRY300  (after it, __exit__ runs)
        except BaseException:
            self._recorder = self._recording = None
            watchers.unwatch(recorder)
            raise

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """End the recording. A span that is still open is left out."""
        recorder = self._recorder
        assert recorder is not None  # for mypy
        try:
            self._recording = None
            watchers.unwatch(recorder)
        except BaseException:
            watchers.unwatch(recorder)
            raise
        if recorder.simulated:
            self._read()  # the simulation may end before the timeline is read; reading a simulation waits for nothing

    def __del__(self) -> None:
        """End the recording, if a signal handler raised before the first line of ``__exit__``."""
        if self._recording is not None:
            watchers.unwatch(self._recording)

    def span(self, name: str, stream: object = None) -> "_Open":
        """Mark the work that is submitted to a stream inside this ``with`` block. Does not block the host.

        Example::

            with interop.Timeline() as timeline, timeline.span("write", producer):
                interop.testing.slow(producer, 5)  # milliseconds; your work

        Args:
            name: what to call the span. Spans with the same name look the same. Control characters and lone surrogates
                are replaced: some files and terminals cannot show them.
            stream: anything that :func:`interop.as_stream` takes; by default the stream of the innermost
                ``with interop.use(stream):`` around the call.

        Raises:
            InteropError: the timeline is not open, or this span is open already.
            InvalidStreamError: *stream* is not a stream; or none was given, and no ``with`` block names one.
            NotSupportedError: the stream is not of the GPU or simulation on which the timeline was entered.
        """
        if type(name) is not str:
            refuse_swapped(name, stream, "span(name, stream)")
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
        """The spans, in the order in which they were left. Blocks the host until the device has done them.

        Example::

            with interop.Timeline() as timeline, timeline.span("write", producer):
                interop.testing.slow(producer, 5)
            for span in timeline.spans:
                print(span.name, span.end - span.start)  # milliseconds, or steps of the simulator
        """
        return self._read().spans

    @property
    def arrows(self) -> tuple[Arrow, ...]:
        """The waits, in the order in which they were made. Blocks the host until the device has done them.

        Example::

            with interop.Timeline() as timeline:
                consumer.wait_stream(producer)
            for arrow in timeline.arrows:
                print(arrow.kind, arrow.producer, arrow.consumer)
        """
        return self._read().arrows

    def table(self) -> Table:
        """The numbers: a list of :class:`Row` that shows itself as a table. Blocks the host until the device is done.

        Example::

            with interop.Timeline() as timeline, timeline.span("write", producer):
                interop.testing.slow(producer, 5)
            print(timeline.table())

        They are milliseconds from the first record, or steps of the simulator; ``table.unit`` says which.
        """
        return Table(self._read())

    def figure(self) -> "Figure":
        """The picture as a matplotlib figure, which pyplot does not know of. Blocks the host until the device is done.

        Example::

            with interop.Timeline() as timeline, timeline.span("write", producer):
                interop.testing.slow(producer, 5)
            timeline.figure().savefig("timeline.png", dpi=200)

        Raises:
            LibraryNotFoundError: matplotlib is not installed.
        """
        from interop.timeline.picture import draw  # noqa: PLC0415  (matplotlib is slow to import, and an extra)

        return draw(self._read())

    def save(self, path: str | PathLike[str]) -> None:
        """Write a file. Blocks the host until the device is done.

        Example::

            with interop.Timeline() as timeline, timeline.span("write", producer):
                interop.testing.slow(producer, 5)
            timeline.save("trace.json")

        Args:
            path: ``*.json`` for a trace, which Perfetto (https://ui.perfetto.dev) and ``chrome://tracing`` open. For
                the picture any suffix that matplotlib knows, such as ``.png``, ``.svg`` and ``.pdf``.

        Raises:
            LibraryNotFoundError: *path* is that of a picture, and matplotlib is not installed.
            ValueError: matplotlib does not know the suffix.
        """
        path = Path(path)
        if path.suffix.lower() == ".json":
            from interop.timeline.trace import trace_text  # noqa: PLC0415  (few timelines become a trace)

            path.write_text(trace_text(self._read()), encoding="utf-8")
        else:
            self.figure().savefig(path)

    def _repr_mimebundle_(self, **_: object) -> dict[str, str | bytes]:
        """For notebooks: the picture; words if there is nothing to draw, or if matplotlib is not installed."""
        reading = self._read()
        if not (reading.spans or reading.arrows or reading.skipped):
            return {"text/plain": repr(self)}
        try:
            from interop.timeline.picture import png  # noqa: PLC0415  (matplotlib is slow to import, and an extra)
        except LibraryNotFoundError as error:
            return {"text/plain": f"{self!r}\n{error}"}
        return {"text/plain": repr(self), "image/png": png(reading)}

    def __repr__(self) -> str:
        """How many spans and arrows there are. Does not block the host."""
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
