"""The producer of an array, if the caller names none: the stream it was handed to, or its library's current stream."""

import weakref

import numpy as np
import pytest

import interop
from interop import _cuda, sim
from interop._order import watchers
from interop.adapters.base import Adapter
from interop.adapters.tensor import CUDA, TYPES, Tensor
from interop.errors import RaceError
from interop.testing import gate
from tests.threads import in_threads


class Array:
    """An array of the invented library, over NumPy's memory."""

    __module__ = "standin"

    def __init__(self, holder=None, values=None, mark=0):
        self.holder = holder
        self.mark = mark or id(self)
        self.values = np.arange(12.0) if values is None else values

    def __getitem__(self, part):
        return Array(self.holder, self.values[part], self.mark)


class Stream:
    __module__ = "standin"

    def __init__(self, handle):
        self.handle = handle


class Library(Adapter):
    library = "standin"
    simulated = True
    streams_stay_the_same = True
    needs_device = False

    def __init__(self):
        self.made = 0
        self.current = None
        self.tells = "its holder"

    def stream_handle(self, stream):
        return stream.handle if isinstance(stream, Stream) else None

    def is_array(self, array):
        return isinstance(array, Array)

    def array_stream(self, array):  # noqa: ARG002
        return self.current

    def read(self, array):
        if not isinstance(array, Array):
            return None
        address = array.values.__array_interface__["data"][0]
        return Tensor(address, array.values.shape, None, TYPES["<f8"], CUDA, 0, read_only=False, owner=array)

    def holder_of(self, array):
        return array.holder if self.tells == "its holder" else None

    def mark_of(self, array):
        return 0 if self.tells == "its holder" else array.mark

    def make_array(self, tensor, holder):  # noqa: ARG002
        self.made += 1
        return Array(
            holder, holder._tensor.owner.values if isinstance(holder._tensor.owner, Array) else np.arange(12.0)
        )


@pytest.fixture
def gpu(monkeypatch):
    with sim.simulate() as gpu:
        monkeypatch.setattr(_cuda.memory, "pointer_place", lambda *_: pytest.fail("CUDA was asked where the memory is"))
        yield gpu
        while interop.release():  # a released object may have held another one
            pass


@pytest.fixture
def library(add_library):
    return add_library(Library())


@pytest.fixture
def streams(gpu):
    return interop.new_stream(), interop.new_stream()


def touch(gpu, stream, array):
    gpu.launch(stream, lambda _: None, writes=[array])


def test_each_hand_over_is_ordered(gpu, library, streams):
    p, c = streams
    source, memory = Array(), gpu.array([0])
    for _ in range(3):
        touch(gpu, p, memory)
        view = interop.handoff(source, c, producer=p)
        touch(gpu, c, memory)
        assert interop.handoff(view, p) is not None  # the producer is c, which the view was handed to
    touch(gpu, p, memory)


def test_control_an_earlier_handover_does_not_order_later_work(gpu, library, streams):
    p, c = streams
    source, memory = Array(), gpu.array([0])
    view = interop.handoff(source, c, producer=p)
    touch(gpu, p, memory)
    with pytest.raises(RaceError):
        touch(gpu, c, memory)
    assert view is not None


@pytest.mark.parametrize("tells", ["its holder", "a number"])
@pytest.mark.parametrize("part", [slice(None), slice(3, 5)], ids=["all", "a part"])
def test_the_producer_of_a_view_is_its_consumer(gpu, library, streams, part, tells):
    p, c = streams
    library.tells = tells
    memory = gpu.array([0])
    library.current = Stream(interop.new_stream().cuda_stream)
    view = interop.handoff(Array(), c, producer=p)
    touch(gpu, c, memory)
    back = interop.handoff(view[part], p)
    touch(gpu, p, memory)
    assert back is not None


@pytest.mark.parametrize("tells", ["its holder", "a number"])
def test_the_producer_of_a_source_is_the_current_stream(gpu, library, streams, tells):
    p, c = streams
    library.tells = tells
    library.current = Stream(interop.new_stream().cuda_stream)
    source, memory = Array(), gpu.array([0])
    view = interop.handoff(source, c, producer=p)
    touch(gpu, interop.ExternalStream(library.current.handle), memory)
    second = interop.handoff(source, p)
    touch(gpu, p, memory)
    assert view is not second


def test_a_named_producer_comes_before_the_consumer_of_a_view(gpu, library, streams):
    p, c = streams
    other, memory = interop.new_stream(), gpu.array([0])
    view = interop.handoff(Array(), c, producer=p)
    touch(gpu, other, memory)
    back = interop.handoff(view, p, producer=other)
    touch(gpu, p, memory)
    assert back is not None


def test_the_current_stream_is_read_on_each_call(gpu, library, streams):
    p, c = streams
    other = interop.new_stream()
    source, memory = Array(), gpu.array([0])
    library.current = Stream(p.cuda_stream)
    views = [interop.handoff(source, c)]
    library.current = Stream(other.cuda_stream)
    touch(gpu, other, memory)
    views.append(interop.handoff(source, c))
    touch(gpu, c, memory)


def test_a_named_producer_comes_before_the_current_stream(gpu, library, streams):
    p, c = streams
    other = interop.new_stream()
    source, memory = Array(), gpu.array([0])
    library.current = Stream(p.cuda_stream)
    touch(gpu, other, memory)
    view = interop.handoff(source, c, producer=other)
    touch(gpu, c, memory)
    assert view is not None


@pytest.mark.parametrize("to", ["another stream", "the same stream"])
def test_a_watcher_is_told_of_each_handover(gpu, library, streams, to):
    p, c = streams if to == "another stream" else streams[:1] * 2
    source = Array()
    told = []

    class Notes(watchers.Watcher):
        def handed_over(self, array, tensor, producer, consumer):
            told.append((array is source, tensor.shape, producer, consumer))

    notes = Notes()
    watchers.watch(notes)
    try:
        views = [interop.handoff(source, c, producer=p) for _ in range(2)]
        backs = [interop.handoff(views[0], p) for _ in range(2)]
    finally:
        watchers.unwatch(notes)
    assert told == [*[(True, (12,), p, c)] * 2, *[(False, (12,), c, p)] * 2]
    assert len(backs) == 2


def test_handoff_refuses_wrong_arguments(gpu, library, streams):
    p, c = streams
    with pytest.raises(TypeError, match="unexpected keyword argument 'wrong'"):
        interop.handoff(Array(), c, producer=p, wrong=1)
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3"):
        interop.handoff(Array(), c, p)


def test_a_handover_releases_what_is_done(gpu, library, streams):
    p, c = streams
    thing, other = Array(), interop.new_stream()
    alive = weakref.ref(thing)
    with gate(other):
        interop.hold(other, thing)
        del thing
    other.synchronize()
    assert alive() is not None
    view = interop.handoff(Array(), c, producer=p)
    assert alive() is None
    assert view is not None


class Switching:
    """A user's stream object, which states another stream after its attribute was changed."""

    def __init__(self, stream):
        self.stream = stream

    def __cuda_stream__(self):
        return self.stream.__cuda_stream__()


def test_the_handle_of_the_consumer_is_read_on_each_call(gpu, library, streams):
    p, c = streams
    source, memory, consumer = Array(), gpu.array([0]), Switching(c)
    views = [interop.handoff(source, consumer, producer=p)]
    consumer.stream = interop.new_stream()
    touch(gpu, p, memory)
    views.append(interop.handoff(source, consumer, producer=p))
    touch(gpu, consumer.stream, memory)


def test_the_handle_of_the_producer_is_read_on_each_call(gpu, library, streams):
    p, c = streams
    source, memory, producer = Array(), gpu.array([0]), Switching(p)
    views = [interop.handoff(source, c, producer=producer)]
    producer.stream = interop.new_stream()
    touch(gpu, producer.stream, memory)
    views.append(interop.handoff(source, c, producer=producer))
    touch(gpu, c, memory)


@pytest.mark.parametrize("question", ["read", "array_stream", "holder_of", "make_array", "is_array"])
def test_a_keyboard_interrupt_in_an_adapter_is_raised(gpu, library, streams, monkeypatch, question):
    _, c = streams
    library.current = Stream(streams[0].cuda_stream)
    source = Array()
    alive = weakref.ref(source)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(library, question, interrupted)
        if question == "is_array":
            broken.setattr(library, "read", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            interop.handoff(source, c)
    interop.handoff(source, c)
    del source
    gpu.synchronize()
    assert interop.release() == 0
    assert alive() is None


@pytest.mark.parametrize("threads", [1, 8])
def test_ten_thousand_handoffs_do_not_leak(gpu, library, threads):
    from interop._arrays.handover import count_open

    sources, before = weakref.WeakSet(), count_open()

    def work():
        p, c = interop.new_stream(), interop.new_stream()
        for _ in range(10_000 // threads // 4):
            source = Array()
            sources.add(source)
            views = [interop.handoff(source, c, producer=p) for _ in range(2)]
            views.append(interop.handoff(views[0], p))
            with interop.borrow(source, consumer=c, producer=p):
                pass

    in_threads(*[work] * threads)
    gpu.synchronize()
    assert interop.release() == 0
    assert not sources
    assert count_open() == before


def test_users_arrays_get_no_weak_references(gpu, library, streams):
    p, c = streams
    source = Array()
    view = interop.handoff(source, c, producer=p)
    assert weakref.getweakrefcount(source) == 0
    assert weakref.getweakrefcount(view) == 0
