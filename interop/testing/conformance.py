"""Tests that an adapter inherits: what interop promises of a library, tested on that library's own objects.

Needs pytest, and NumPy for the simulator. In the tests of a package that brings an adapter, this is all::

    from interop.testing.conformance import AdapterConformance

    class TestMyLibrary(AdapterConformance):
        library = "my_library"

Each test looks at what the adapter says that the library has. What it does not have must be refused, with a message.
"""

import contextlib
import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import pytest

import interop
from interop import _cuda
from interop.adapters import adapter_named
from interop.adapters.base import Adapter, Source
from interop.errors import (
    InvalidArrayError,
    InvalidEventError,
    NoDeviceError,
    NotSupportedError,
    ProducerUnknownError,
    UnrecordedEventError,
)
from interop.testing.gate import gate
from interop.testing.host_free import assert_host_free
from interop.testing.poison import memory_of
from interop.testing.proof import assert_not_ordered, assert_ordered

_NO_STREAMS: tuple[object, ...] = (None, True, 0, 7, "stream", object(), type)


class _Owner:
    """Somebody's stream, of which nothing is known but the address."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return (0, self.handle)


class AdapterConformance:
    """Subclass it, with a name that pytest collects; set :attr:`library`, and override what the library has.

    The tests run on the GPU. Without one they are skipped, or fail where ``--interop-require=gpu`` says so; unless
    :attr:`only_addresses` is set.

    Attributes:
        library: the library's import path, by which interop finds the adapter.
        only_addresses: whether the library's objects only hold addresses, and never call CUDA with them: then the
            simulator's will do where there is no GPU.
        switches_all_threads: whether the library has one current stream a device for all threads, and not one for each.
    """

    library: ClassVar[str]
    only_addresses: ClassVar[bool] = False
    switches_all_threads: ClassVar[bool] = False

    # -- what a subclass may override ------------------------------------------------------------------------------

    def new_stream(self) -> object:
        """A new, non-blocking stream of the library's own; by default a stream of interop's, as the library's type."""
        return interop.new_stream().to(self.library)

    def default_streams(self) -> Mapping[int, object]:
        """The library's own objects for the default streams, by what they mean in CUDA: ``LEGACY`` or ``PER_THREAD``.

        The null stream above all, whose handle is 0. Both names are in :mod:`interop.adapters.base`. Without them, one
        test is skipped.
        """
        return {}

    def new_event(self) -> object:
        """A new event of the library's own. To be overridden if the adapter takes events."""
        return None

    def new_array(self) -> Any:  # noqa: ANN401  (the library's own type)
        """A new array of the library's own, on the current device. To be overridden if the adapter takes arrays."""
        return None

    def address_of(self, array: Any) -> int:  # noqa: ANN401  (the library's own type)
        """The address of an array's memory; by default from ``__cuda_array_interface__`` or ``__dlpack__``."""
        return memory_of(array, writes=False)[0]

    # -- where it runs ---------------------------------------------------------------------------------------------

    @pytest.fixture
    def adapter(self, interop_need: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Adapter]:
        """The adapter, on a GPU, or in a simulation of one."""
        interop_need(self.library)
        adapter = adapter_named(self.library)
        with contextlib.ExitStack() as simulation:
            if self.only_addresses and not _gpu_is_there():
                simulation.enter_context(interop.sim.simulate(devices=2))
                monkeypatch.setattr(adapter, "simulated", True)
            else:
                interop_need("gpu")
            yield adapter

    @pytest.fixture(autouse=True)
    def _device_stays(self, adapter: Adapter) -> Iterator[None]:  # noqa: ARG002  (first)
        """Nothing may leave another device current than it found."""
        before = _cuda.active().current_device()
        yield
        assert _cuda.active().current_device() == before

    # What a library has not is refused, as these make sure; then there is nothing more to test.

    @pytest.fixture
    def current(self, adapter: Adapter, interop_need: Callable[..., None]) -> Adapter | None:
        """The adapter of a library that has a current stream; None if it has none, and interop says what to do."""
        if not adapter.has_current_stream:
            stream = self.new_stream()
            for ask in (lambda: interop.current_stream(self.library), lambda: interop.use(stream, self.library)):
                with pytest.raises(NotSupportedError, match="no current stream"):
                    ask()
            return None
        if not adapter.usable():
            interop_need("gpu")
            pytest.fail(f"{self.library}, as it is installed here, cannot use the GPU that is here")
        return adapter

    @pytest.fixture
    def event(self, adapter: Adapter) -> object:
        """An event of the library's; None if it has none, and interop takes nothing of the library's for one."""
        if type(adapter).event_handle is Adapter.event_handle:
            with pytest.raises(InvalidEventError, match="expected an event"):
                interop.new_stream().wait_event(self.new_stream())
            return None
        return self._made("new_event", "events")

    @pytest.fixture
    def array(self, adapter: Adapter) -> Any:  # noqa: ANN401  (the library's own type)
        """An array of the library's; None if it has none, and interop takes nothing of the library's for one."""
        if type(adapter).is_array is Adapter.is_array:
            stream = interop.new_stream()
            with pytest.raises(InvalidArrayError, match="expected an array"):
                interop.handoff(self.new_stream(), stream, producer=stream)
            return None
        return self._made("new_array", "arrays")

    def _made(self, hook: str, what: str) -> object:
        made = getattr(self, hook)()
        assert made is not None, f"the adapter for {self.library} takes {what}: override {hook}(), to have them tested"
        return made

    # -- streams in ------------------------------------------------------------------------------------------------

    def test_it_is_the_adapter_of_the_library(self, adapter: Adapter) -> None:
        """It is found by the name, and by an object."""
        assert adapter.library == self.library
        assert f" of {self.library}" in repr(interop.as_stream(self.new_stream()))

    def test_a_stream_is_borrowed_with_its_owner(self, adapter: Adapter) -> None:
        """A handle is an int, never 0, and the library's own object is kept alive."""
        native = self.new_stream()
        handle = adapter.stream_handle(native)
        assert type(handle) is int
        assert handle > 0
        stream = interop.as_stream(native)
        assert stream.cuda_stream == handle
        assert stream.owner is native
        assert stream == interop.as_stream(native)

    def test_what_is_no_stream_is_not_taken_for_one(self, adapter: Adapter) -> None:
        """The answer is None, and no exception; and a stream is no event and no array."""
        for other in _NO_STREAMS:
            assert adapter.stream_handle(other) is None
        native = self.new_stream()
        assert adapter.event_handle(native) is None
        assert not adapter.is_array(native)

    def test_a_stream_of_a_subclass_is_a_stream(self, adapter: Adapter) -> None:
        """Users derive from the classes of libraries."""
        native = self.new_stream()
        handle = adapter.stream_handle(native)
        if _turned_into_a_subclass(native):
            assert adapter.stream_handle(native) == handle
            assert interop.as_stream(native).cuda_stream == handle

    def test_a_handle_is_that_of_the_object_that_is_there_now(self, adapter: Adapter) -> None:
        """And not of one that was at its address before."""
        for stream in 10 * [interop.new_stream(), interop.new_stream()]:
            natives = [interop.as_stream(_Owner(stream.cuda_stream)).to(self.library) for _ in range(10)]
            assert {adapter.stream_handle(native) for native in natives} == {stream.cuda_stream}
            assert {interop.as_stream(native).cuda_stream for native in natives} == {stream.cuda_stream}
            natives.clear()  # the next ones come to lie at their addresses

    def test_the_end_of_a_stream_is_told(self, adapter: Adapter) -> None:
        """Where interop keeps what it has found out of a stream object: for as long as that is there, and no longer."""
        if not (adapter.streams_stay_the_same or adapter.streams_close):
            return
        native = interop.as_stream(_Owner(interop.new_stream().cuda_stream)).to(self.library)
        life = adapter.life(native)
        if life is not None:
            ended = weakref.ref(life)
            del native, life
            gc.collect()
            assert ended() is None

    def test_its_default_streams_are_known(self, adapter: Adapter) -> None:
        """By their names in CUDA: the null stream is one of two, and which one the library decides."""
        streams = self.default_streams()
        if not streams:
            pytest.skip("override default_streams(), to have the library's own null stream tested")
        for meaning, native in streams.items():
            assert adapter.stream_handle(native) == meaning
            assert interop.as_stream(native).cuda_stream == meaning

    def test_two_streams_are_two(self, adapter: Adapter) -> None:
        """And the order of CUDA's numbers is the order in which they were made, not that of their addresses."""
        one, other = interop.as_stream(self.new_stream()), interop.as_stream(self.new_stream())
        assert one != other
        assert one.stream_id != other.stream_id
        assert adapter.stream_handle(one.owner) != adapter.stream_handle(other.owner)

    # -- streams out -----------------------------------------------------------------------------------------------

    def test_a_stream_goes_out_and_comes_back(self, adapter: Adapter) -> None:
        """As the library's own type, the same object each time."""
        stream = interop.new_stream()
        native = stream.to(self.library)
        assert adapter.stream_handle(native) == stream.cuda_stream
        assert stream.to(self.library) is native
        assert interop.as_stream(native) == stream
        assert interop.as_stream(native).device == stream.device

    def test_the_librarys_own_stream_comes_back_as_itself(self) -> None:
        """Nothing is wrapped twice."""
        native = self.new_stream()
        assert interop.as_stream(native).to(self.library) is native

    @pytest.mark.parametrize("handle", [_cuda.LEGACY, _cuda.PER_THREAD])
    def test_the_default_streams_keep_their_meaning(self, handle: int) -> None:
        """1 and 2 come back as 1 and 2, however the library spells them; or it says that it cannot."""
        stream = interop.ExternalStream(handle)
        try:
            native = stream.to(self.library)
        except NotSupportedError:
            return
        assert interop.as_stream(native).cuda_stream == handle

    def test_what_goes_out_keeps_the_owner_alive(self, adapter: Adapter) -> None:
        """For as long as the library's object is there, and no longer; and interop is told the truth about it."""
        stream = interop.new_stream()
        owner = _Owner(stream.cuda_stream)
        alive = weakref.ref(owner)
        native = interop.as_stream(owner).to(self.library)
        del owner
        gc.collect()
        assert alive() is not None
        assert adapter.keeps_alive(native)
        del native
        gc.collect()
        assert alive() is None

    def test_what_goes_out_does_not_destroy_the_stream(self) -> None:
        """Which goes on to work when the library's object is gone."""
        stream = interop.new_stream()
        native = interop.as_stream(_Owner(stream.cuda_stream)).to(self.library)
        del native
        gc.collect()
        stream.record_event()
        stream.synchronize()

    def test_nothing_waits_where_a_stream_goes_out(self, adapter: Adapter) -> None:
        """Neither for the stream nor for the device."""
        stream, other = interop.new_stream(), interop.new_stream()

        def go_out() -> None:
            native = interop.as_stream(_Owner(stream.cuda_stream)).to(self.library)
            adapter.stream_handle(native)
            adapter.keeps_alive(native)

        go_out()  # loaded now
        with assert_host_free(stream, other):
            go_out()

    def test_a_stream_goes_out_on_every_device(self, adapter: Adapter) -> None:
        """And none is left current, whoever was before."""
        for device in _devices():
            stream = interop.new_stream(device)
            with _in_context_of(stream):
                native = adapter.make_stream(Source(stream.cuda_stream, device, stream))
                assert _cuda.active().current_device() == device
                assert adapter.stream_handle(native) == stream.cuda_stream
                assert _cuda.active().current_device() == device
            assert interop.as_stream(native).device == device

    def test_default_streams_have_their_devices(self, adapter: Adapter) -> None:
        """Where the adapter says so."""
        if not adapter.default_streams_have_devices:
            return
        for device in _devices():
            native = interop.ExternalStream(_cuda.LEGACY, device).to(self.library)
            assert interop.as_stream(native).device == device

    # -- order -----------------------------------------------------------------------------------------------------

    def test_others_wait_for_it(self) -> None:
        """As producer; and not by itself."""
        native, other = self.new_stream(), interop.new_stream()
        with assert_ordered(native, other):
            other.wait_stream(native)
        with assert_not_ordered(native, other):
            pass

    def test_it_waits_for_others(self) -> None:
        """As consumer; and not by itself, nor the other way round."""
        native, other = self.new_stream(), interop.new_stream()
        with assert_ordered(other, native):
            interop.as_stream(native).wait_stream(other)
        with assert_not_ordered(other, native):
            pass
        with assert_not_ordered(native, other):
            pass

    def test_the_host_is_free(self) -> None:
        """Nothing that orders waits for the device."""
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

    def test_from_another_thread(self) -> None:
        """A stream that was borrowed in one thread orders in another one."""
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

    # -- events ----------------------------------------------------------------------------------------------------

    def test_what_is_no_event_is_not_taken_for_one(self, adapter: Adapter) -> None:
        """The answer is None, and no exception."""
        for other in _NO_STREAMS:
            assert adapter.event_handle(other) is None

    def test_its_events_order(self, event: object) -> None:
        """Recorded on the library's stream, and waited for by another one."""
        if event is None:
            return
        producer, consumer = interop.as_stream(self.new_stream()), interop.new_stream()
        producer.record_event(event)  # loaded now
        fresh = self._made("new_event", "events")
        with assert_ordered(producer, consumer, by="gate"):
            consumer.wait_event(producer.record_event(fresh))  # a library may create it only now
        with assert_host_free(producer, consumer):
            producer.record_event(self._made("new_event", "events"))
        with assert_ordered(producer, consumer):
            consumer.wait_event(producer.record_event(event))
        with assert_not_ordered(producer, consumer):
            producer.record_event(event)

    def test_an_event_that_has_no_handle_yet(self, adapter: Adapter, event: object) -> None:
        """Is refused, and not waited for in vain."""
        if event is None:
            return
        assert adapter.stream_handle(event) is None
        handle = adapter.event_handle(event)
        assert type(handle) is int
        if handle == 0:
            with pytest.raises(UnrecordedEventError):
                interop.new_stream().wait_event(event)

    def test_an_event_of_a_subclass_is_an_event(self, adapter: Adapter, event: object) -> None:
        """Users derive from the classes of libraries."""
        if event is not None and _turned_into_a_subclass(event):
            assert adapter.event_handle(event) is not None
            interop.as_stream(self.new_stream()).record_event(event)

    # -- the current stream ----------------------------------------------------------------------------------------

    def test_use_makes_a_stream_current(self, current: Adapter | None) -> None:
        """Its own, and foreign ones; and exactly what was before is current again afterwards."""
        if current is None:
            return
        before = interop.as_stream(current.current_stream())
        for stream in (self.new_stream(), interop.new_stream()):
            with interop.use(stream, self.library) as used:
                assert interop.current_stream(self.library) == used
                assert interop.as_stream(current.current_stream()) == used
            assert interop.as_stream(current.current_stream()) == before

    def test_use_is_nested(self, current: Adapter | None) -> None:
        """And left in between by an exception."""
        if current is None:
            return
        before = interop.as_stream(current.current_stream())
        outer, inner = interop.new_stream(), interop.new_stream()
        with interop.use(outer, self.library):
            with contextlib.suppress(KeyError), interop.use(inner, self.library):
                assert interop.current_stream(self.library) == inner
                raise KeyError
            assert interop.current_stream(self.library) == outer
            with interop.use(outer, self.library):
                pass
            assert interop.current_stream(self.library) == outer
        assert interop.as_stream(current.current_stream()) == before

    def test_what_was_can_be_put_back_twice_and_without_need(self, current: Adapter | None) -> None:
        """A signal handler may raise in the middle of `enter` or `leave`; then `leave` is called once more."""
        if current is None:
            return
        outer = interop.new_stream()
        with interop.use(outer, self.library):
            native = interop.new_stream().to(self.library)
            current.leave(current.before(native))
            assert interop.as_stream(current.current_stream()) == outer
            before = current.before(native)
            current.enter(native, before)
            for _ in range(2):
                current.leave(before)
                assert interop.as_stream(current.current_stream()) == outer

    def test_use_is_for_the_calling_thread(self, current: Adapter | None) -> None:
        """Unless the library has one current stream for all threads."""
        if current is None:
            return
        stream, seen = interop.new_stream(), list[int | None]()

        def look() -> None:
            seen.append(current.stream_handle(current.current_stream()))

        with interop.use(stream, self.library):
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
        assert len(seen) == 1
        assert (seen[0] == stream.cuda_stream) is self.switches_all_threads

    def test_the_librarys_own_blocks_come_back(self, current: Adapter | None) -> None:
        """To the stream that ``use`` has made current, where the library's streams are entered by ``with``."""
        if current is None:
            return
        outer, inner = interop.new_stream(), self.new_stream()
        with interop.use(outer, self.library):
            if hasattr(type(inner), "__enter__"):
                with inner:  # type: ignore[attr-defined]
                    assert interop.current_stream(self.library) == interop.as_stream(inner)
            assert interop.current_stream(self.library) == outer

    def test_the_very_object_is_current_again(self, current: Adapter | None) -> None:
        """If the library has one: another object for the same stream need not keep it alive."""
        if current is None:
            return
        with interop.use(self.new_stream(), self.library):
            before = current.current_stream()
            if current.current_stream() is before:
                with interop.use(interop.new_stream(), self.library):
                    pass
                assert current.current_stream() is before

    def test_what_is_current_keeps_its_owner_alive(self, current: Adapter | None) -> None:
        """Or the adapter says that it does not."""
        if current is None:
            return
        stream = interop.new_stream()
        owner = _Owner(stream.cuda_stream)
        alive = weakref.ref(owner)
        with interop.use(owner, self.library):
            native = current.current_stream()
        del owner
        gc.collect()
        assert alive() is not None or not current.keeps_alive(native)

    def test_nothing_waits_where_a_stream_is_made_current(self, current: Adapter | None) -> None:
        """For the stream, for the one that was current before, or for the device; on entry and exit."""
        if current is None:
            return
        stream, before = interop.new_stream(), interop.as_stream(current.current_stream())

        def switch() -> None:
            with interop.use(stream, self.library):
                current.current_stream()

        switch()  # loaded now
        with assert_host_free(stream, before):
            switch()

    def test_streams_of_every_device_are_made_current(self, current: Adapter | None) -> None:
        """And no other device is, then or afterwards."""
        if current is None:
            return
        cuda = _cuda.active()
        for device in _devices():
            stream = interop.new_stream(device)
            native = stream.to(self.library)
            with _in_context_of(stream):
                before = current.before(native)
                assert cuda.current_device() == device
                current.enter(native, before)
                assert cuda.current_device() == device
                assert current.stream_handle(current.current_stream()) == stream.cuda_stream
                assert cuda.current_device() == device
                current.leave(before)
                assert cuda.current_device() == device

    def test_use_switches_every_loaded_library(self, current: Adapter | None) -> None:
        """So this one too, without being named; and one without a current stream does not stand in the way."""
        stream = interop.new_stream()
        with interop.use(stream):
            if current is not None:
                assert interop.current_stream(self.library) == stream

    # -- arrays ----------------------------------------------------------------------------------------------------

    def test_what_is_no_array_is_not_taken_for_one(self, adapter: Adapter) -> None:
        """The answer is False, and no exception."""
        assert not any(adapter.is_array(other) for other in _NO_STREAMS)

    def test_its_arrays_are_known(self, adapter: Adapter, array: Any) -> None:  # noqa: ANN401
        """And can be handed over."""
        if array is None:
            return
        assert adapter.stream_handle(array) is None
        assert adapter.is_array(array) is True
        assert adapter.problem(array) == ""

    def test_an_array_of_a_subclass_is_an_array(self, adapter: Adapter, array: Any) -> None:  # noqa: ANN401
        """Users derive from the classes of libraries."""
        if array is not None and _turned_into_a_subclass(array):
            assert adapter.is_array(array) is True

    def test_an_array_over_memory_keeps_it_until_it_goes(self, adapter: Adapter, array: Any) -> None:  # noqa: ANN401
        """Only then is the producer's later work ordered after the consumer's."""
        if array is None or not adapter.makes_arrays:
            return
        producer, consumer = interop.new_stream(), interop.new_stream()
        views = [self._hand(array, producer, consumer, self.library)]
        gc.collect()
        with assert_not_ordered(consumer, producer, by="gate"):
            pass
        with assert_ordered(consumer, producer, by="gate"):
            views.clear()
        interop.release()

    def test_an_array_is_handed_over_in_order(self, adapter: Adapter, array: Any) -> None:  # noqa: ANN401
        """The same memory; the consumer's stream waits, the host does not."""
        if array is None:
            return
        producer, consumer = interop.new_stream(), interop.new_stream()
        into = self.library if adapter.makes_arrays else None
        self._hand(array, producer, consumer, into)  # loaded and compiled now
        with assert_ordered(producer, consumer, by="gate"):
            view = self._hand(array, producer, consumer, into)
        if into is not None:
            assert adapter.is_array(view)
        assert self.address_of(view) == self.address_of(array)
        with assert_not_ordered(producer, consumer, by="gate"):
            self._hand(array, consumer, consumer, into)
        with assert_host_free(producer, consumer):
            again = self._hand(array, producer, consumer, into)
        del view, again
        interop.release()

    def test_the_current_stream_has_written_its_arrays(
        self,
        adapter: Adapter,
        current: Adapter | None,
        array: Any,  # noqa: ANN401
    ) -> None:
        """Where a library has one, and the adapter says so; where nothing says who wrote one, interop asks."""
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

    @staticmethod
    def _hand(array: Any, producer: object, consumer: object, into: str | None) -> Any:  # noqa: ANN401
        return interop.handoff(array, consumer, producer=producer, into=into)

    # -- gates -----------------------------------------------------------------------------------------------------

    def test_a_gate_holds_it(self) -> None:
        """So that this library's users can test with gates."""
        native = self.new_stream()
        with gate(native) as shut:
            assert not interop.as_stream(native).query()
            assert not shut.is_open
        interop.as_stream(native).synchronize()


def _turned_into_a_subclass(native: object) -> bool:
    """Make *native* an object of a subclass of its class; False if that cannot be, as with many classes in C."""
    try:
        native.__class__ = type("Derived", (type(native),), {"__slots__": (), "__module__": __name__})
    except TypeError:
        return False
    return True


@contextlib.contextmanager
def _in_context_of(stream: interop.ExternalStream) -> Iterator[None]:
    cuda = _cuda.active()
    before = cuda.bound_context()
    cuda.bind_context(stream._ready())
    try:
        yield
    finally:
        cuda.bind_context(before)


def _devices() -> range:
    """The ordinals of two devices, or of the one that there is."""
    return range(min(2, _cuda.active().device_count()))


def _gpu_is_there() -> bool:
    try:
        return _cuda.GPU.device_count() > 0
    except NoDeviceError:
        return False
