"""Hand-overs that are still in use: the same one again costs one wait, and none of the conversion."""

import weakref
from typing import TYPE_CHECKING, Any, Final

from interop import _cudart, _watch
from interop._handover import Handover
from interop.adapters.base import Adapter
from interop.stream import ExternalStream

if TYPE_CHECKING:
    from interop._tensor import Tensor


_unchanging: Final = id
"""In place of a layout that cannot change: the same for one array each time, and fast."""


class Loan:
    """One array, handed to one stream and library, for as long as the array that came of it lives.

    What was given as streams is held by it, so that its identity stays its own; the arrays are not, and are asked
    whether they are still the same.
    """

    __slots__ = (
        "_ask_mark",
        "_layout_of_source",
        "_layout_of_view",
        "_lender",
        "_mark",
        "_source_layout",
        "_view_layout",
        "_way_home",
        "given",
        "reader",
        "source",
        "tensor",
        "view",
        "writer",
    )

    def __init__(
        self,
        ends: tuple[Any, Any],
        adapters: tuple[Adapter, Adapter],
        streams: tuple[ExternalStream, ExternalStream],
        given: tuple[object, object, object],
        tensor: "Tensor",
    ) -> None:
        """Remember what is to be the same the next time.

        Args:
            ends: the array that was handed over, and the one that came of it.
            adapters: those of their libraries.
            streams: the producer and the consumer.
            given: what the caller named as producer (None if nothing), consumer and library.
            tensor: the memory of both.
        """
        source, view = ends
        self._lender = adapters[0]
        self._layout_of_source, self._layout_of_view = (
            adapter.layout if adapter.arrays_change else _unchanging for adapter in adapters
        )
        self.writer, self.reader = streams
        self.given = given
        self.source = weakref.ref(source)
        self.view = weakref.ref(view)
        self._source_layout = self._layout_of_source(source)
        self._view_layout = self._layout_of_view(view)
        self._mark = self._lender.stream_mark(source) if given[0] is None else None
        self._ask_mark = None if self._mark is None else self._lender.stream_mark
        self.tensor = tensor
        self._way_home: tuple[object, object, object, ExternalStream] | None = None

    @property
    def is_lasting(self) -> bool:
        """Whether the same objects, given again, will be the same streams."""
        producer, consumer, _ = self.given
        if not _stays(consumer, self.reader):
            return False
        if producer is not None:
            return _stays(producer, self.writer)
        # The current stream of an array's library is asked for every time, with the array's device current.
        return self.writer.cuda_stream != _cudart.PER_THREAD

    def view_of(self, source: object) -> Any:  # noqa: ANN401
        """The array that came of *source*, if both are still what they were; else None."""
        view = self.view()
        if (
            view is None
            or self.source() is not source
            or self._layout_of_source(source) != self._source_layout
            or self._layout_of_view(view) != self._view_layout
        ):
            return None
        return view

    def again(self, source: object) -> Any:  # noqa: ANN401
        """Order the same hand-over once more: the array that came of it. None if something is not as it was."""
        # As view_of, written out: this is what a loop pays for.
        view = self.view()
        if (
            view is None
            or self.source() is not source
            or self._layout_of_source(source) != self._source_layout
            or self._layout_of_view(view) != self._view_layout
            or (self._ask_mark is not None and self._ask_mark(source) != self._mark)
        ):
            return None
        self.reader.wait_stream(self.writer)
        if _watch.watchers:
            self._tell(source, self.writer, self.reader)
        return view

    def home(
        self,
        view: object,
        adapter: Adapter | None,
        streams: tuple[ExternalStream, ExternalStream],
        given: tuple[object, object, object],
    ) -> Any:  # noqa: ANN401
        """The array that *view* came of, if it is handed back to where that is from; else None."""
        writer, reader = streams
        if adapter is not self._lender or reader != self.writer:
            return None
        source = self.source()
        if source is None or self.view_of(source) is not view:
            return None
        if (given[0] is None or _stays(given[0], writer)) and _stays(given[1], reader):
            self._way_home = (*given, writer)
        return source

    def home_again(self, view: object, producer: object, consumer: object, into: object) -> Any:  # noqa: ANN401
        """Order the same way home once more: the array that *view* came of. None if something is not as it was."""
        way = self._way_home
        if way is None or way[0] is not producer or way[1] is not consumer or way[2] is not into:
            return None
        source = self.source()
        if source is None or self.view_of(source) is not view:
            return None
        self.writer.wait_stream(way[3])
        if _watch.watchers:
            self._tell(view, way[3], self.writer)
        return source

    def _tell(self, array: object, writer: ExternalStream, reader: ExternalStream) -> None:
        for watcher in _watch.watchers:
            watcher.handed_over(array, self.tensor, writer, reader)


def _stays(given: object, stream: ExternalStream) -> bool:
    """Whether *given* will be that stream the next time: not a default one, nor what may state another one by then."""
    if stream.cuda_stream <= _cudart.PER_THREAD:
        return False
    return given is stream or (stream._adapter is not None and stream._adapter.streams_stay_the_same)


loans: Final[dict[tuple[int, ...], Loan]] = {}
"""By the identity of the array, and of what was given as producer, consumer and library; may be out of date."""

by_view: Final[dict[int, Loan]] = {}
"""By the identity of the array that came of it."""


def loan_of(view: object) -> Loan | None:
    """What *view* came of."""
    loan = by_view.get(id(view))
    return loan if loan is not None and loan.view() is view else None


def remember(loan: Loan, holder: Handover, *, again: bool) -> None:
    """Find *loan* from now on, until *holder* is gone: by what came of it; and, if *again*, by what was given."""
    view, key = id(loan.view()), (id(loan.source()), *map(id, loan.given))
    by_view[view] = loan
    if again and loan.is_lasting:
        loans[key] = loan

    def forget() -> None:
        if by_view.get(view) is loan:
            del by_view[view]
        if loans.get(key) is loan:
            del loans[key]

    holder.when_gone(forget)
