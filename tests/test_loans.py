"""The same hand-over again costs a wait only; and what was handed over goes home as what it was."""

import gc
import sys
import threading
import types
import weakref

import numpy as np
import pytest

import interop
from interop import _held, _loans, _watch, sim
from interop.adapters.base import Adapter
from interop.errors import ProducerUnknownError, RaceError
from interop.testing import gate


class Array:
    """An array of the stand-in library, over NumPy's memory; its shape can be set in place."""

    __module__ = "standin"

    def __init__(self, memory=None):
        self.memory = memory
        self.values = np.arange(12.0)
        self.shape = (12,)

    @property
    def __cuda_array_interface__(self):
        return {**self.values.__array_interface__, "shape": self.shape, "version": 3}


class Stream:
    __module__ = "standin"

    def __init__(self, handle):
        self.handle = handle


class Library(Adapter):
    library = "standin"
    simulated = True
    streams_stay_the_same = True
    makes_arrays = True
    has_layout = True

    def __init__(self):
        self.made = 0
        self.current = None

    def stream_handle(self, stream):
        return stream.handle if isinstance(stream, Stream) else None

    def is_array(self, array):
        return isinstance(array, Array)

    def array_stream(self, array):  # noqa: ARG002
        return self.current

    def make_array(self, memory):
        self.made += 1
        return Array(memory)

    def layout(self, array):
        return array.shape


@pytest.fixture
def gpu(monkeypatch):
    with sim.simulate() as gpu:
        monkeypatch.setattr(gpu.cuda, "pointer_place", lambda _: (2, 0))
        yield gpu
        while interop.release():  # what is let go of may have held something else
            pass
        assert not _loans.loans
        assert not _loans.by_view


@pytest.fixture
def library(registry, monkeypatch):
    monkeypatch.setitem(sys.modules, "standin", types.ModuleType("standin"))
    interop.register("standin", library := Library())
    return library


@pytest.fixture
def streams(gpu):
    return interop.new_stream(), interop.new_stream()


def touch(gpu, stream, array):
    gpu.launch(stream, lambda _: None, writes=[array])


# -- again ---------------------------------------------------------------------------------------------------------


def test_the_same_again_gives_the_same_in_order(gpu, library, streams):
    p, c = streams
    source, memory = Array(), gpu.array([0])
    views = []
    for _ in range(3):
        touch(gpu, p, memory)
        views.append(interop.handoff(source, c, producer=p))
        touch(gpu, c, memory)
        p.wait_stream(c)
    assert views[0] is views[1] is views[2]
    assert library.made == 1


def test_control_the_order_is_not_the_old_one(gpu, library, streams):
    p, c = streams
    source, memory = Array(), gpu.array([0])
    view = interop.handoff(source, c, producer=p)
    touch(gpu, p, memory)
    with pytest.raises(RaceError):
        touch(gpu, c, memory)
    assert view is interop.handoff(source, c, producer=p)


def other_consumer(source, p, c):
    interop.handoff(source, interop.new_stream(), producer=p)


def other_producer(source, p, c):
    interop.handoff(source, c, producer=interop.new_stream())


def other_array(source, p, c):
    interop.handoff(Array(), c, producer=p)


def changed_array(source, p, c):
    source.shape = (3, 4)
    interop.handoff(source, c, producer=p)


@pytest.mark.parametrize("other", [other_consumer, other_producer, other_array, changed_array])
def test_anything_else_is_another_one(gpu, library, streams, other):
    p, c = streams
    source = Array()
    view = interop.handoff(source, c, producer=p)
    other(source, p, c)
    assert library.made == 2
    assert view


def test_a_changed_view_is_not_given_again(gpu, library, streams):
    p, c = streams
    source = Array()
    view = interop.handoff(source, c, producer=p)
    view.shape = (3, 4)
    assert interop.handoff(source, c, producer=p).shape == (12,)


def test_a_library_that_cannot_tell_a_change(gpu, library, streams):
    p, c = streams
    library.has_layout = False
    source = Array()
    views = [interop.handoff(source, c, producer=p) for _ in range(2)]
    assert views[0] is not views[1]


def test_a_view_that_is_gone_is_not_given_again(gpu, library, streams):
    p, c = streams
    source = Array()
    memory = interop.handoff(source, c, producer=p).memory  # its view is gone, and something else still holds it
    assert interop.handoff(source, c, producer=p).memory is not memory


def test_the_way_back_is_still_ordered_and_the_source_let_go(gpu, library, streams):
    p, c = streams
    source, memory = Array(), gpu.array([0])
    alive = weakref.ref(source)
    view = interop.handoff(source, c, producer=p)
    view = interop.handoff(source, c, producer=p)
    touch(gpu, c, memory)
    del source, view
    touch(gpu, p, memory)
    interop.release()
    assert alive() is None


def test_the_current_stream_is_asked_for_every_time(gpu, library, streams):
    p, c = streams
    other = interop.new_stream()
    source, memory = Array(), gpu.array([0])
    library.current = Stream(p.cuda_stream)
    view = interop.handoff(source, c)
    assert interop.handoff(source, c) is view
    library.current = Stream(other.cuda_stream)
    touch(gpu, other, memory)
    again = interop.handoff(source, c)
    touch(gpu, c, memory)
    assert again is not view


@pytest.mark.parametrize("default", [1, 2])
def test_default_streams_are_looked_up_every_time(gpu, library, streams, default):
    p, _ = streams
    source = Array()
    c = Stream(default)
    views = [interop.handoff(source, c, producer=p, into="standin") for _ in range(2)]
    assert views[0] is not views[1]
    views += [interop.handoff(source, p, producer=c, into="standin") for _ in range(2)]
    assert views[2] is not views[3]


@pytest.mark.parametrize("to", ["another stream", "the same stream"])
def test_a_watcher_is_told_each_time(gpu, library, streams, to):
    p, c = streams if to == "another stream" else streams[:1] * 2
    source = Array()
    told = []

    class Notes(_watch.Watcher):
        def handed_over(self, array, tensor, producer, consumer):
            told.append((array is source, tensor.shape, producer, consumer))

    notes = Notes()
    _watch.watch(notes)
    try:
        views = [interop.handoff(source, c, producer=p) for _ in range(2)]
        sources = [interop.handoff(views[0], p) for _ in range(2)]
    finally:
        _watch.unwatch(notes)
    assert told == [*[(True, (12,), p, c)] * 2, *[(False, (12,), c, p)] * 2]
    assert views[0] is views[1]
    assert sources[0] is sources[1] is source


def test_a_named_producer_is_not_the_current_stream(gpu, library, streams):
    p, c = streams
    other = interop.new_stream()
    source, memory = Array(), gpu.array([0])
    library.current = Stream(p.cuda_stream)
    views = [interop.handoff(source, c) for _ in range(2)]
    touch(gpu, other, memory)
    views.append(interop.handoff(source, c, producer=other))
    touch(gpu, c, memory)
    assert views[0] is views[1] is not views[2]


def test_an_array_at_the_address_of_another_is_not_that_one(gpu, library, streams):
    p, c = streams
    source, other = Array(), Array()
    view = interop.handoff(source, c, producer=p)
    assert interop.handoff(view, p, producer=c) is source
    _loans.loans[id(other), id(p), id(c), id(None)] = _loans.loans[id(source), id(p), id(c), id(None)]
    views = [view, interop.handoff(other, c, producer=p)]
    assert views[0] is not views[1]
    _loans.by_view[id(other)] = _loans.by_view[id(view)]
    views.append(interop.handoff(other, p, producer=c))
    assert views[2] is not source
    with pytest.raises(ProducerUnknownError):
        interop.handoff(other, p)
    del _loans.by_view[id(other)]


def test_wrong_arguments_of_the_same_hand_over_again(gpu, library, streams):
    p, c = streams
    source = Array()
    views = [interop.handoff(source, c, producer=p) for _ in range(2)]
    with pytest.raises(TypeError, match="unexpected keyword argument 'wrong'"):
        interop.handoff(source, c, producer=p, wrong=1)
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3"):
        interop.handoff(source, c, p)
    assert views[0] is views[1]


def test_the_same_hand_over_again_lets_go_of_what_is_held(gpu, library, streams, monkeypatch):
    p, c = streams
    source, thing, other = Array(), Array(), interop.new_stream()
    alive = weakref.ref(thing)
    views = [interop.handoff(source, c, producer=p) for _ in range(2)]
    with gate(other):
        interop.hold(other, thing)
        del thing
    other.synchronize()
    assert alive() is not None
    monkeypatch.setattr(_held, "_PAUSE", 0)
    views.append(interop.handoff(source, c, producer=p))
    assert alive() is None


# -- home ----------------------------------------------------------------------------------------------------------


def test_there_and_back_gives_the_array_itself(gpu, library, streams):
    p, c = streams
    source, memory = Array(), gpu.array([0])
    for _ in range(3):
        touch(gpu, p, memory)
        view = interop.handoff(source, c, producer=p)
        touch(gpu, c, memory)
        assert interop.handoff(view, p) is source  # its producer is known: the stream that it was handed to
    touch(gpu, p, memory)
    assert library.made == 1


def test_control_back_home_is_ordered_by_the_call(gpu, library, streams):
    p, c = streams
    source, memory = Array(), gpu.array([0])
    view = interop.handoff(source, c, producer=p)
    touch(gpu, c, memory)
    with pytest.raises(RaceError):
        touch(gpu, p, memory)
    assert interop.handoff(view, p) is source


def test_elsewhere_is_not_home(gpu, library, streams):
    p, c = streams
    source, memory = Array(), gpu.array([0])
    view = interop.handoff(source, c, producer=p)
    touch(gpu, c, memory)
    elsewhere = interop.new_stream()
    further = interop.handoff(view, elsewhere)
    assert further is not source
    touch(gpu, elsewhere, memory)
    assert interop.handoff(further, c) is view
    touch(gpu, c, memory)


def test_named_producers_count(gpu, library, streams):
    p, c = streams
    source, memory = Array(), gpu.array([0])
    view = interop.handoff(source, c, producer=p)
    other = interop.new_stream()
    touch(gpu, other, memory)
    assert interop.handoff(view, p, producer=other) is source
    touch(gpu, p, memory)


@pytest.mark.parametrize("which", ["source", "view"])
def test_changed_meanwhile_it_does_not_go_home(gpu, library, streams, which):
    p, c = streams
    source = Array()
    view = interop.handoff(source, c, producer=p)
    (source if which == "source" else view).shape = (3, 4)
    assert interop.handoff(view, p) is not source


def test_another_way_than_the_last_one_is_not_the_same(gpu, library, streams, monkeypatch):
    p, c = streams
    another = Library()
    monkeypatch.setitem(sys.modules, "another", types.ModuleType("another"))
    monkeypatch.setattr(another, "library", "another")
    interop.register("another", another)
    other = interop.new_stream()
    source, memory = Array(), gpu.array([0])
    view = interop.handoff(source, c, producer=p)
    for _ in range(2):
        assert interop.handoff(view, p, producer=c) is source
    touch(gpu, other, memory)
    assert interop.handoff(view, p, producer=other) is source
    touch(gpu, p, memory)
    views = [
        interop.handoff(view, c, producer=other),
        interop.handoff(view, p, producer=other, into="another"),
        interop.handoff(source, c, producer=p, into="another"),
    ]
    assert len({id(array) for array in (source, view, *views)}) == 5


def test_borrow_goes_home_too(gpu, library, streams):
    p, c = streams
    source, memory = Array(), gpu.array([0])
    view = interop.handoff(source, c, producer=p)
    touch(gpu, c, memory)
    with interop.borrow(view, consumer=p) as back:
        assert back is source
        touch(gpu, p, memory)
    touch(gpu, c, memory)


class Switching:
    """A stream object of a user's own, which is not the same stream for all its life."""

    def __init__(self, stream):
        self.stream = stream

    def __cuda_stream__(self):
        return self.stream.__cuda_stream__()


def test_a_consumer_that_is_another_stream_by_now(gpu, library, streams):
    p, c = streams
    source, memory, consumer = Array(), gpu.array([0]), Switching(c)
    view = interop.handoff(source, consumer, producer=p)
    consumer.stream = interop.new_stream()
    touch(gpu, p, memory)
    again = interop.handoff(source, consumer, producer=p)
    touch(gpu, consumer.stream, memory)
    assert again is not view


def test_a_producer_that_is_another_stream_by_now(gpu, library, streams):
    p, c = streams
    source, memory, producer = Array(), gpu.array([0]), Switching(p)
    view = interop.handoff(source, c, producer=producer)
    producer.stream = interop.new_stream()
    touch(gpu, producer.stream, memory)
    assert interop.handoff(source, c, producer=producer) is not None
    touch(gpu, c, memory)
    assert view is not None


def test_a_producer_that_is_another_stream_by_now_on_the_way_home(gpu, library, streams):
    p, c = streams
    source, memory, producer = Array(), gpu.array([0]), Switching(c)
    view = interop.handoff(source, c, producer=p)
    assert interop.handoff(view, p, producer=producer) is source
    producer.stream = interop.new_stream()
    touch(gpu, producer.stream, memory)
    assert interop.handoff(view, p, producer=producer) is source
    touch(gpu, p, memory)


# -- exceptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "question", "end"),
    [
        ("there", "layout", "array"),
        ("there", "layout", "view"),
        ("there", "stream_mark", "array"),
        ("home", "layout", "array"),
        ("home", "layout", "view"),
    ],
)
def test_ctrl_c_in_an_adapter_is_let_out(gpu, library, streams, monkeypatch, way, question, end):
    p, c = streams
    library.current = Stream(p.cuda_stream)
    interrupted = []
    ask = getattr(library, question)

    def asked(array):
        if any(array is one for one in interrupted):
            interrupted.clear()
            raise KeyboardInterrupt
        return ask(array)

    monkeypatch.setattr(library, question, asked)
    source = Array()
    view = interop.handoff(source, c)
    given, taker, result = (source, c, view) if way == "there" else (view, p, source)
    for _ in range(2):
        assert interop.handoff(given, taker) is result
    interrupted.append(source if end == "array" else view)
    with pytest.raises(KeyboardInterrupt):
        interop.handoff(given, taker)
    assert interop.handoff(given, taker) is result


# -- no leak -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 8])
def test_ten_thousand_hand_overs_leave_nothing(gpu, library, threads):
    sources = weakref.WeakSet()

    def work():
        p, c = interop.new_stream(), interop.new_stream()
        for _ in range(10_000 // threads // 4):
            source = Array()
            sources.add(source)
            views = [interop.handoff(source, c, producer=p) for _ in range(2)]
            assert interop.handoff(views[0], p) is source
            with interop.borrow(source, consumer=c, producer=p):
                pass

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    interop.release()
    gc.collect()
    assert not sources
    assert interop.release() == 0
    assert not _loans.loans
