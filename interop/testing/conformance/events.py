"""Tests of events, for a library that has them."""

import pytest

import interop
from interop.adapters.base import Adapter
from interop.errors import InvalidEventError, UnrecordedEventError
from interop.testing.conformance.library import LibraryUnderTest
from interop.testing.conformance.stand_ins import OTHER_OBJECTS, turned_into_a_subclass
from interop.testing.host_free import assert_host_free
from interop.testing.proof import assert_not_ordered, assert_ordered


class EventTests(LibraryUnderTest):
    """Tests of the library's events."""

    @pytest.fixture
    def event(self, adapter: Adapter) -> object:
        """A new event of the library. If it has none, None; then interop takes none of its objects for an event."""
        if type(adapter).event_handle is Adapter.event_handle:
            with pytest.raises(InvalidEventError, match="expected an event"):
                interop.new_stream().wait_event(self.new_stream())
            return None
        return self.made("new_event", "events")

    def test_other_objects_are_no_events(self, adapter: Adapter) -> None:
        """For objects that are no event, the adapter answers None, and raises nothing."""
        for other in OTHER_OBJECTS:
            assert adapter.event_handle(other) is None

    def test_a_wait_for_the_librarys_event_orders(self, event: object) -> None:
        """A stream that waits for the library's event comes after the work before its record."""
        if event is None:
            return
        producer, consumer = interop.as_stream(self.new_stream()), interop.new_stream()
        producer.record_event(event)  # so that what is loaded at the first use is loaded
        fresh = self.made("new_event", "events")
        with assert_ordered(producer, consumer, by="gate"):
            consumer.wait_event(
                producer.record_event(fresh)
            )  # some libraries create an event when it is first recorded
        with assert_host_free(producer, consumer):
            producer.record_event(self.made("new_event", "events"))
        with assert_ordered(producer, consumer):
            consumer.wait_event(producer.record_event(event))
        with assert_not_ordered(producer, consumer):
            producer.record_event(event)

    def test_an_event_without_a_handle_is_refused(self, adapter: Adapter, event: object) -> None:
        """A wait for an event whose handle is 0 is an error: CUDA would wait for nothing."""
        if event is None:
            return
        assert adapter.stream_handle(event) is None
        handle = adapter.event_handle(event)
        assert type(handle) is int
        if handle == 0:
            with pytest.raises(UnrecordedEventError):
                interop.new_stream().wait_event(event)

    def test_an_event_of_a_subclass_is_an_event(self, adapter: Adapter, event: object) -> None:
        """Users may derive classes from the library's."""
        if event is not None and turned_into_a_subclass(event):
            assert adapter.event_handle(event) is not None
            interop.as_stream(self.new_stream()).record_event(event)
