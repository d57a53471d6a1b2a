"""What a timeline has recorded, as plain numbers: lanes, spans, arrows, and the table of them."""

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from interop._show.text import plural, render
from interop.errors import LibraryNotFoundError

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Unit = Literal["ms", "steps"]
"""What positions are counted in: milliseconds of a device, or the kernels of a simulation one after the other."""


class Lane(NamedTuple):
    """One stream.

    Attributes:
        number: its place among the lanes, from 0, in the order in which they were first used.
        library: whose it is, as an import path; ``"interop"`` for one made by :func:`interop.new_stream`.
        name: its address, which default stream it is, or what a simulated stream is called.
        device: the ordinal of its device.
    """

    number: int
    library: str
    name: str
    device: int

    def __str__(self) -> str:
        """All of it but the number."""
        return f"{self.library} {self.name}, device {self.device}".lstrip()


class Span(NamedTuple):
    """Work between two points of a stream.

    Attributes:
        name: what the user calls it.
        lane: where it ran.
        start: when the stream came to it.
        end: when the stream was done with it.
    """

    name: str
    lane: Lane
    start: float
    end: float


class Arrow(NamedTuple):
    """One stream waited for another.

    Attributes:
        kind: ``"wait"`` for ``wait_stream``, ``"event"`` for an event, ``"hand-over"`` if arrays went along.
        producer: what was waited for.
        consumer: what waited.
        recorded: when the producer was done with what the consumer waits for.
        waited: when the consumer went on.
        arrays: the arrays that were handed over, described.
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
        unit: of all positions. They are counted from the first one.
        lanes: in the order in which they were first used.
        spans: in the order in which they were left.
        arrows: in the order in which the waits were made.
        skipped: how many spans and arrows are missing because a graph was captured.
        error: how far, in milliseconds, the positions of two devices may be apart; 0 with a single one.
    """

    unit: Unit
    lanes: tuple[Lane, ...]
    spans: tuple[Span, ...]
    arrows: tuple[Arrow, ...]
    skipped: int
    error: float

    @property
    def notes(self) -> list[str]:
        """What has to be known to read the numbers, a sentence each."""
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
        what: ``"span"``, or the kind of an arrow.
        name: of the span; of an arrow, the arrays that went along.
        stream: which; of an arrow, from which to which.
        start: of a span; of an arrow, when the producer was done.
        end: of a span; of an arrow, when the consumer went on.
        length: the difference.
    """

    what: str
    name: str
    stream: str
    start: float
    end: float
    length: float


_DRAWN: Final = 300


class Table(list[Row]):
    """The rows, in the order of their start; draws itself as a table in a notebook, with ``print`` and with rich.

    Of more than 300 rows the first and the last 150 are drawn. The list has them all.
    """

    def __init__(self, reading: Reading) -> None:
        """Make the rows of *reading*."""
        self.unit: Unit = reading.unit
        self.notes = reading.notes
        rows = [Row("span", name, str(lane), start, end, end - start) for name, lane, start, end in reading.spans]
        rows += [
            Row(kind, arrays, f"{producer} → {consumer}", recorded, waited, waited - recorded)
            for kind, producer, consumer, recorded, waited, arrays in reading.arrows
        ]
        super().__init__(sorted(rows, key=lambda row: (row.start, row.end)))

    def __rich__(self) -> "RichTable":
        """The table, for rich."""
        rich = _rich()
        digits = 3 if self.unit == "ms" else 0
        notes, first, last = list(self.notes), self[:], []
        if len(self) > _DRAWN:
            notes.append(f"{len(self) - _DRAWN:,} of {len(self):,} rows are not drawn here: the list has them all.")
            first, last = self[: _DRAWN // 2], self[-_DRAWN // 2 :]
        table: RichTable = rich.table.Table(caption="\n".join(notes) or None, caption_justify="left")
        for column in ("what", "name", "stream"):
            table.add_column(column, overflow="fold")
        for column in ("start", "end", "length"):
            table.add_column(rich.text.Text(f"{column}\n[{self.unit}]"), justify="right")
        for rows in (first, last):
            for row in rows:
                # As Text, nothing in a name is taken for markup.
                table.add_row(*map(rich.text.Text, row[:3]), *(f"{number:.{digits}f}" for number in row[3:]))
            if last and rows is first:
                table.add_row(*["…"] * 6)
        return table

    def __str__(self) -> str:
        """The table as text, as wide as the terminal."""
        return render(self.__rich__())

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:  # noqa: ANN401  (IPython's)
        bundle: dict[str, str] = self.__rich__()._repr_mimebundle_(**options)
        return bundle


def _rich() -> Any:  # noqa: ANN401  (a module)
    try:
        import rich.table  # noqa: PLC0415  (an extra)
        import rich.text  # noqa: PLC0415
    except ModuleNotFoundError as error:
        message = "a table is drawn by rich: pip install rich"
        raise LibraryNotFoundError(message, name="rich") from error
    return rich
