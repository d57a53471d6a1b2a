"""Tests of arrays, for a library that has them."""

# ruff: noqa: ANN401  (arrays are of the library's own type)

import gc
from typing import Any

import pytest

import interop
from interop.adapters.base import Adapter
from interop.errors import InvalidArrayError, ProducerUnknownError
from interop.testing.conformance.current import CurrentStreamTests
from interop.testing.conformance.stand_ins import OTHER_OBJECTS, turned_into_a_subclass
from interop.testing.host_free import assert_host_free
from interop.testing.proof import assert_not_ordered, assert_ordered


class ArrayTests(CurrentStreamTests):
    """Tests of the library's arrays. The library's current stream may be the one that has written an array."""

    @pytest.fixture
    def array(self, adapter: Adapter) -> Any:
        """A new array of the library. If it has none, None; then interop takes none of its objects for an array."""
        if type(adapter).is_array is Adapter.is_array:
            stream = interop.new_stream()
            with pytest.raises(InvalidArrayError, match="expected an array"):
                interop.handoff(self.new_stream(), stream, producer=stream)
            return None
        return self.made("new_array", "arrays")

    def test_other_objects_are_no_arrays(self, adapter: Adapter) -> None:
        """For objects that are no array, the adapter answers False, and raises nothing."""
        assert not any(adapter.is_array(other) for other in OTHER_OBJECTS)

    def test_the_librarys_arrays_are_known(self, adapter: Adapter, array: Any) -> None:
        """The adapter takes the library's arrays for arrays, not for streams, and refuses none."""
        if array is None:
            return
        assert adapter.stream_handle(array) is None
        assert adapter.is_array(array) is True
        assert adapter.problem(array) == ""

    def test_an_array_of_a_subclass_is_an_array(self, adapter: Adapter, array: Any) -> None:
        """Users may derive classes from the library's."""
        if array is not None and turned_into_a_subclass(array):
            assert adapter.is_array(array) is True

    def test_the_end_of_an_array_orders_the_way_back(self, adapter: Adapter, array: Any) -> None:
        """When the array is freed, and not before, the producer's later work is ordered after the consumer's."""
        if array is None or not adapter.makes_arrays:
            return
        producer, consumer = interop.new_stream(), interop.new_stream()
        views = [hand_over(array, producer, consumer, self.library)]
        gc.collect()
        with assert_not_ordered(consumer, producer, by="gate"):
            pass
        with assert_ordered(consumer, producer, by="gate"):
            views.clear()
        interop.release()

    def test_an_array_is_handed_over_in_order(self, adapter: Adapter, array: Any) -> None:
        """The memory is the same. The consumer's stream waits, and the host does not."""
        if array is None:
            return
        producer, consumer = interop.new_stream(), interop.new_stream()
        into = self.library if adapter.makes_arrays else None
        hand_over(array, producer, consumer, into)  # so that what is loaded or compiled at the first use is
        with assert_ordered(producer, consumer, by="gate"):
            view = hand_over(array, producer, consumer, into)
        if into is not None:
            assert adapter.is_array(view)
        assert self.address_of(view) == self.address_of(array)
        with assert_not_ordered(producer, consumer, by="gate"):
            hand_over(array, consumer, consumer, into)
        with assert_host_free(producer, consumer):
            again = hand_over(array, producer, consumer, into)
        del view, again
        interop.release()

    def test_the_current_stream_is_the_producer(
        self,
        adapter: Adapter,
        current: Adapter | None,
        array: Any,
    ) -> None:
        """The current stream is the producer, if `array_stream` returns it. Otherwise the caller has to name one."""
        if array is None:
            return
        stream = interop.new_stream()
        if type(adapter).array_stream is Adapter.array_stream:
            stated = getattr(array, "__cuda_array_interface__", {}).get("stream")
            if stated is None and not adapter.orders_itself:
                with pytest.raises(ProducerUnknownError, match="producer="):
                    interop.handoff(array, stream)
        elif current is None:
            writer = adapter.array_stream(array)
            assert writer is None or adapter.stream_handle(writer) is not None
        else:
            with interop.use(stream, self.library):
                assert interop.as_stream(adapter.array_stream(array)) == stream


def hand_over(array: Any, producer: object, consumer: object, into: str | None) -> Any:
    """Hand *array* from *producer* to *consumer*."""
    return interop.handoff(array, consumer, producer=producer, into=into)
