"""What a watcher is told of, on the simulator."""

import pytest

import interop
from interop._order import watchers
from interop.errors import UnrecordedEventError


class Notes(watchers.Watcher):
    def __init__(self):
        self.told = []

    def recorded(self, stream, event):
        self.told.append(("recorded", stream, event))

    def waited(self, stream, event):
        self.told.append(("waited", stream, event))

    def joined(self, consumer, producer):
        self.told.append(("joined", consumer, producer))

    def finished(self, what):
        self.told.append(("finished", what))


@pytest.fixture
def gpu():
    with interop.sim.simulate() as gpu:
        yield gpu


@pytest.fixture
def notes():
    notes = Notes()
    watchers.watch(notes)
    yield notes.told
    watchers.unwatch(notes)
    assert not watchers.active


def test_every_call_that_orders(gpu, notes):
    a, b = interop.new_stream(), interop.new_stream()
    event = a.record_event()
    b.wait_event(event)
    b.wait_stream(a)
    assert notes == [("recorded", a, event), ("waited", b, event), ("joined", b, a)]


def test_what_the_host_finds_done(gpu, notes):
    stream = interop.new_stream()
    event = stream.record_event()
    del notes[:]
    stream.synchronize()
    stream.synchronize(timeout=1)
    assert stream.query()
    event.synchronize()
    assert event.query()
    assert notes == [("finished", stream)] * 3 + [("finished", event)] * 2


def test_not_what_is_still_running(gpu, notes):
    stream = interop.new_stream()
    with interop.testing.gate(stream):
        event = stream.record_event()
        del notes[:]
        assert not stream.query()
        assert not event.query()
        with pytest.raises(TimeoutError):
            stream.synchronize(timeout=0)
    assert not notes


def test_not_what_is_refused(gpu, notes):
    stream = interop.new_stream()
    with pytest.raises(UnrecordedEventError):
        stream.wait_event(interop.Event())
    assert not notes


def test_not_what_needs_no_wait(gpu, notes):
    stream = interop.new_stream()
    stream.wait_stream(stream)
    assert not notes


def test_every_watcher_until_it_is_taken_off(gpu, notes):
    other = Notes()
    watchers.watch(other)
    a, b = interop.new_stream(), interop.new_stream()
    b.wait_stream(a)
    watchers.unwatch(other)
    a.wait_stream(b)
    assert other.told == notes[:1]
    assert len(notes) == 2
