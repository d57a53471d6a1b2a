"""What a timeline has recorded, as numbers: lanes, spans, arrows, and a table of them."""

from typing import Final, Literal, NamedTuple

from interop._show import html, plain
from interop._show.text import as_printed, plural

Unit = Literal["ms", "steps"]
"""The unit of positions: milliseconds on the device, or kernels (steps) of a simulation."""


class Lane(NamedTuple):
    """One stream.

    Attributes:
        number: its number, from 0: streams are numbered in the order of their first use.
        library: import path of its library; ``"interop"`` for a stream made by :func:`interop.new_stream`.
        name: the name that it was given, the variable that it was assigned to when interop made it, which default
            stream it is, its number in its library, or its address.
        device: the ordinal of its device.
    """

    number: int
    library: str
    name: str
    device: int

    def __str__(self) -> str:
        return f"{self.library} {self.name}, device {self.device}".lstrip()


class Span(NamedTuple):
    """Work between two points of a stream.

    Attributes:
        name: the user's name for it.
        lane: the stream on which it ran.
        start: when the stream reached the span.
        end: when the stream had done its work.
    """

    name: str
    lane: Lane
    start: float
    end: float


class Arrow(NamedTuple):
    """One stream waited for another.

    Attributes:
        kind: ``"wait"`` for ``wait_stream``, ``"event"`` for ``wait_event``, ``"hand-over"`` if arrays went along.
        producer: the stream that was waited for.
        consumer: the stream that waited.
        recorded: when the producer had done the work that the consumer waits for.
        waited: when the consumer went on.
        arrays: the types and shapes of the arrays that were handed over.
    """

    kind: str
    producer: Lane
    consumer: Lane
    recorded: float
    waited: float
    arrays: str


class Reading(NamedTuple):
    """All of a timeline, read from the device.

    Attributes:
        unit: the unit of all positions. The first position is 0.
        lanes: the streams, in the order of their first use.
        spans: the spans, in the order in which they were left.
        arrows: the waits, in the order in which they were made.
        skipped: how many spans and arrows are missing because their stream captured a graph.
        error: the error between the clocks of two devices at most, in milliseconds; 0 with one device.
    """

    unit: Unit
    lanes: tuple[Lane, ...]
    spans: tuple[Span, ...]
    arrows: tuple[Arrow, ...]
    skipped: int
    error: float

    @property
    def notes(self) -> list[str]:
        """What a reader of the numbers has to know, a sentence each."""
        notes = []
        if self.unit == "steps":
            notes.append("SIMULATED: the order, not the time; a kernel is one step, and runs as soon as it may.")
        if self.skipped:
            what = plural(self.skipped, "span or wait is", "spans and waits are")
            notes.append(f"{what} not shown: a graph was captured meanwhile.")
        if self.error:
            notes.append(f"The clocks of the devices were compared to within {self.error:.3f} ms.")
        return notes


class Row(NamedTuple):
    """One line of :class:`Table`.

    Attributes:
        what: ``"span"``, or the kind of the arrow.
        name: the name of the span; for an arrow, the arrays that were handed over.
        stream: the stream of the span; for an arrow, the producer and the consumer.
        start: when the span began; for an arrow, when the producer was done.
        end: when the span ended; for an arrow, when the consumer went on.
        length: end minus start.
    """

    what: str
    name: str
    stream: str
    start: float
    end: float
    length: float


_MOST_ROWS: Final = 300


class Table(list[Row]):
    """The rows, sorted by their start. Shows itself as a table in a notebook and with ``print``.

    If there are more than 300 rows, the table shows the first and the last 150. The list has all of them.
    """

    def __init__(self, reading: Reading) -> None:
        self.unit: Unit = reading.unit
        self.notes = reading.notes
        rows = [Row("span", name, str(lane), start, end, end - start) for name, lane, start, end in reading.spans]
        rows += [
            Row(kind, arrays, f"{producer} → {consumer}", recorded, waited, waited - recorded)
            for kind, producer, consumer, recorded, waited, arrays in reading.arrows
        ]
        super().__init__(sorted(rows, key=lambda row: (row.start, row.end)))

    _repr_pretty_ = as_printed

    def __str__(self) -> str:
        """The table as text, as wide as the terminal."""
        rows, notes = self._shown()
        shown = [plain.table(rows, self._head, numbers=3)] if rows else []
        return "\n".join((*shown, plain.table((note,) for note in notes))).rstrip()

    def _repr_html_(self) -> str:
        rows, notes = self._shown()
        return (html.grid(self._head, rows, numbers=3) if rows else "") + html.lines(notes)

    @property
    def _head(self) -> list[str]:
        return ["what", "name", "stream", *(f"{column} [{self.unit}]" for column in ("start", "end", "length"))]

    def _shown(self) -> tuple[list[list[str]], list[str]]:
        """The rows that are shown, and the notes below them."""
        digits = 3 if self.unit == "ms" else 0
        rows = [[*row[:3], *(f"{number:.{digits}f}" for number in row[3:])] for row in self]
        left_out = len(self) - _MOST_ROWS
        if not rows:
            return rows, ["nothing was recorded", *self.notes]
        if left_out <= 0:
            return rows, self.notes
        rows[_MOST_ROWS // 2 : -_MOST_ROWS // 2] = [["…"] * 6]
        return rows, [*self.notes, f"{left_out:,} of {len(self):,} rows are not shown here: the list has all of them."]
