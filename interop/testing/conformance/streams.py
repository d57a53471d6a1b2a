"""Tests of streams: they are borrowed from the library, handed to it, and ordered."""

import gc
import threading
import weakref

import pytest

import interop
from interop import _cuda
from interop.adapters.base import Adapter, Source
from interop.errors import NotSupportedError
from interop.testing.conformance.library import LibraryUnderTest
from interop.testing.conformance.stand_ins import OTHER_OBJECTS, Owner, devices, in_context_of, turned_into_a_subclass
from interop.testing.gate import gate
from interop.testing.host_free import assert_host_free
from interop.testing.proof import assert_not_ordered, assert_ordered


class StreamTests(LibraryUnderTest):
    """Tests of the library's streams."""

    # -- the library's streams, borrowed -------------------------------------------------------------------------------

    def test_the_adapter_is_found_by_name_and_by_object(self, adapter: Adapter) -> None:
        """Interop finds the adapter by the library's name, and by one of its objects."""
        assert adapter.library == self.library
        assert f" of {self.library}" in repr(interop.as_stream(self.new_stream()))

    def test_a_stream_is_borrowed_with_its_owner(self, adapter: Adapter) -> None:
        """The handle is an int and not 0, and the borrowed stream keeps the library's own object alive."""
        native = self.new_stream()
        handle = adapter.stream_handle(native)
        assert type(handle) is int
        assert handle > 0
        stream = interop.as_stream(native)
        assert stream.cuda_stream == handle
        assert stream.owner is native
        assert stream == interop.as_stream(native)

    def test_other_objects_are_no_streams(self, adapter: Adapter) -> None:
        """For objects that are no stream, the adapter answers None. A stream is no event and no array."""
        for other in OTHER_OBJECTS:
            assert adapter.stream_handle(other) is None
        native = self.new_stream()
        assert adapter.event_handle(native) is None
        assert not adapter.is_array(native)

    def test_a_stream_of_a_subclass_is_a_stream(self, adapter: Adapter) -> None:
        """Users may derive classes from the library's."""
        native = self.new_stream()
        handle = adapter.stream_handle(native)
        if turned_into_a_subclass(native):
            assert adapter.stream_handle(native) == handle
            assert interop.as_stream(native).cuda_stream == handle

    def test_a_handle_is_not_remembered_for_a_later_object(self, adapter: Adapter) -> None:
        """An object gets its own handle, also if another object was at the same address before."""
        for stream in 10 * [interop.new_stream(), interop.new_stream()]:
            natives = [interop.as_stream(Owner(stream.cuda_stream)).to(self.library) for _ in range(10)]
            assert {adapter.stream_handle(native) for native in natives} == {stream.cuda_stream}
            assert {interop.as_stream(native).cuda_stream for native in natives} == {stream.cuda_stream}
            natives.clear()  # the next ones may lie at the same addresses

    def test_a_stream_object_is_forgotten_at_its_end(self, adapter: Adapter) -> None:
        """Interop remembers a stream object as long as what `life` returns lives: no longer than the object itself."""
        if not (adapter.streams_stay_the_same or adapter.streams_close):
            return
        native = interop.as_stream(Owner(interop.new_stream().cuda_stream)).to(self.library)
        life = adapter.life(native)
        if life is not None:
            ended = weakref.ref(life)
            del native, life
            gc.collect()
            assert ended() is None

    def test_default_streams_are_borrowed_as_such(self, adapter: Adapter) -> None:
        """The library decides which of CUDA's two default streams its null stream is."""
        streams = self.default_streams()
        if not streams:
            pytest.skip("override default_streams(), to have the library's own null stream tested")
        for meaning, native in streams.items():
            assert adapter.stream_handle(native) == meaning
            assert interop.as_stream(native).cuda_stream == meaning

    def test_two_new_streams_differ(self, adapter: Adapter) -> None:
        """Two new streams differ in their handles and ids."""
        one, other = interop.as_stream(self.new_stream()), interop.as_stream(self.new_stream())
        assert one != other
        assert one.stream_id != other.stream_id
        assert adapter.stream_handle(one.owner) != adapter.stream_handle(other.owner)

    # -- interop's streams, as the library's type ----------------------------------------------------------------------

    def test_to_makes_the_same_stream(self, adapter: Adapter) -> None:
        """The library's object stands for the same stream, and is the same object each time."""
        stream = interop.new_stream()
        native = stream.to(self.library)
        assert adapter.stream_handle(native) == stream.cuda_stream
        assert stream.to(self.library) is native
        assert interop.as_stream(native) == stream
        assert interop.as_stream(native).device == stream.device

    def test_to_returns_the_librarys_own_object(self) -> None:
        """``to`` returns the library's object from which the stream was borrowed."""
        native = self.new_stream()
        assert interop.as_stream(native).to(self.library) is native

    @pytest.mark.parametrize("handle", [_cuda.LEGACY, _cuda.PER_THREAD])
    def test_to_keeps_default_streams(self, handle: int) -> None:
        """The handles 1 and 2 stay 1 and 2 there and back, or the adapter refuses them."""
        stream = interop.ExternalStream(handle)
        try:
            native = stream.to(self.library)
        except NotSupportedError:
            return
        assert interop.as_stream(native).cuda_stream == handle

    def test_to_keeps_the_owner_alive(self, adapter: Adapter) -> None:
        """The owner lives as long as the library's object, and `keeps_alive` says so.

        It goes with that object, or when the next one is made.
        """
        stream = interop.new_stream()
        owner = Owner(stream.cuda_stream)
        alive = weakref.ref(owner)
        native = interop.as_stream(owner).to(self.library)
        del owner
        gc.collect()
        assert alive() is not None
        assert adapter.keeps_alive(native)
        del native
        stream.to(self.library)
        gc.collect()
        assert alive() is None

    def test_an_object_made_by_to_does_not_destroy_the_stream(self) -> None:
        """The stream still works when the library's object is gone."""
        stream = interop.new_stream()
        native = interop.as_stream(Owner(stream.cuda_stream)).to(self.library)
        del native
        gc.collect()
        stream.record_event()
        stream.synchronize()

    def test_to_does_not_block_the_host(self, adapter: Adapter) -> None:
        """The host waits neither for the stream nor for the device."""
        stream, other = interop.new_stream(), interop.new_stream()

        def go_out() -> None:
            native = interop.as_stream(Owner(stream.cuda_stream)).to(self.library)
            adapter.stream_handle(native)
            adapter.keeps_alive(native)

        go_out()  # so that what is loaded at the first use is loaded
        with assert_host_free(stream, other):
            go_out()

    def test_to_works_on_every_device(self, adapter: Adapter) -> None:
        """The current device stays the same."""
        for device in devices():
            stream = interop.new_stream(device)
            with in_context_of(stream):
                native = adapter.make_stream(Source(stream.cuda_stream, device, stream))
                assert _cuda.active().current_device() == device
                assert adapter.stream_handle(native) == stream.cuda_stream
                assert _cuda.active().current_device() == device
            assert interop.as_stream(native).device == device

    def test_default_streams_keep_their_devices(self, adapter: Adapter) -> None:
        """Where `stream_device` names the device of a default stream."""
        if not adapter.default_streams_have_devices:
            return
        for device in devices():
            native = interop.ExternalStream(_cuda.LEGACY, device).to(self.library)
            assert interop.as_stream(native).device == device

    # -- order ---------------------------------------------------------------------------------------------------------

    def test_other_streams_wait_for_the_librarys_stream(self) -> None:
        """The library's stream is the producer. Without the wait, nothing orders the two streams."""
        native, other = self.new_stream(), interop.new_stream()
        with assert_ordered(native, other):
            other.wait_stream(native)
        with assert_not_ordered(native, other):
            pass

    def test_the_librarys_stream_waits_for_others(self) -> None:
        """The library's stream is the consumer. Without the wait, nothing orders the two streams, either way round."""
        native, other = self.new_stream(), interop.new_stream()
        with assert_ordered(other, native):
            interop.as_stream(native).wait_stream(other)
        with assert_not_ordered(other, native):
            pass
        with assert_not_ordered(native, other):
            pass

    def test_ordering_does_not_block_the_host(self) -> None:
        """Records, waits and queries do not wait for the device."""
        native, other = self.new_stream(), interop.new_stream()
        other.wait_stream(native)
        with assert_host_free(native):
            stream = interop.as_stream(native)
            assert not stream.query()
            stream.record_event()
            other.wait_stream(native)
        stream.synchronize()
        other.synchronize()
        assert stream.query()

    def test_a_stream_can_be_ordered_in_another_thread(self) -> None:
        """A stream that was borrowed in one thread can be ordered in another."""
        native, other, failures = self.new_stream(), interop.new_stream(), list[BaseException]()

        def work() -> None:
            try:
                with assert_ordered(native, other):
                    other.wait_stream(native)
            except BaseException as error:  # noqa: BLE001  (handed to the test)
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert failures == []

    def test_a_gate_holds_back_the_librarys_stream(self) -> None:
        """Users of the library can test with gates."""
        native = self.new_stream()
        with gate(native) as shut:
            assert not interop.as_stream(native).query()
            assert not shut.is_open
        interop.as_stream(native).synchronize()
