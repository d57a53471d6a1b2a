"""A signal handler that raises in a hand-over, or while one ends: nothing is lost, kept, or let go of early."""

import sys
import types
import weakref

import pytest

import interop
from interop._arrays import handover, holder
from interop._arrays.keepalive import keepalive
from interop._order import watchers
from tests.arrays.test_exchange import Array, Library
from tests.interrupts import interrupt

native_stubs = pytest.importorskip("tests.native_stubs")

# An interrupt that comes in a finaliser is told, and lost, as Python has it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class PythonHandover(holder.HandoverFields):
    """What there is without the extension."""

    __slots__ = ()


@pytest.fixture(params=["C", "Python", "Python's holder"])
def world(request, driver, registry, monkeypatch):
    """The stub driver; with a watcher every call is Python's; with its holder, so is the end of a hand-over."""
    monkeypatch.setitem(sys.modules, "standin", types.ModuleType("standin"))
    library = Library()
    library.simulated = False
    interop.register("standin", library)
    watcher = watchers.Watcher()
    if request.param == "Python's holder":
        monkeypatch.setattr("interop._arrays.exchange.find", holder.find)
        monkeypatch.setattr("interop._arrays.exchange.Handover", PythonHandover)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # pytest's keeps the error, and so what its frames had
    with native_stubs.bound(driver) as cuda:
        world = native_stubs.World(driver, cuda)
        world.driver = driver
        world.p.owner = world.c.owner = object()
        world.p._device = world.c._device = 0
        if request.param != "C":
            watchers.watch(watcher)
        yield world
        if request.param != "C":
            watchers.unwatch(watcher)
        driver.reset()
        while interop.release():
            pass


def nothing_is_left(sources, world):
    """After the device is done, and one more call, all is let go of."""
    world.driver.reset()
    before = handover.count_open() + holder.count_open()

    def check():
        world.driver.reset()
        interop.release()
        left = interop.release()
        assert left == 0
        assert not list(sources)
        assert handover.count_open() + holder.count_open() == before
        assert not keepalive.ended
        assert not keepalive._blocked
        assert not keepalive._queues

    return check


def test_hold(world):
    sources = weakref.WeakSet()

    def work():
        thing = Array()
        sources.add(thing)
        interop.hold(world.c, thing)

    interrupt(work, nothing_is_left(sources, world))


def test_handoff_that_is_dropped(world):
    sources = weakref.WeakSet()

    def work():
        source = Array()
        sources.add(source)
        interop.handoff(source, world.c, producer=world.p)

    interrupt(work, nothing_is_left(sources, world))


def test_a_chain(world):
    sources = weakref.WeakSet()

    def work():
        source = Array()
        sources.add(source)
        view = interop.handoff(source, world.c, producer=world.p)
        interop.handoff(view, world.q)

    interrupt(work, nothing_is_left(sources, world))


def test_borrow(world):
    sources = weakref.WeakSet()

    def work():
        source, other = Array(), Array()
        sources.update((source, other))
        with interop.borrow(source, other, consumer=world.c, producer=world.p):
            pass

    interrupt(work, nothing_is_left(sources, world))


def test_release(world):
    sources = weakref.WeakSet()
    world.driver.fail("cuEventQuery", 600)

    def work():
        for stream in (world.c, world.p, world.c):
            source = Array()
            sources.add(source)
            interop.hold(stream, source)
        world.driver.reset()
        interop.release()

    interrupt(work, nothing_is_left(sources, world))


def test_the_end_of_a_hand_over_places_the_way_back(world):
    """Whenever the interrupt comes: the producer waits for the consumer at the latest after the next call."""
    views, made = [], []

    def work():
        views.append(interop.handoff(Array(), world.c, producer=world.p))
        made.append(True)
        world.driver.reset()
        views.clear()
        interop.release()

    def check():
        if views:  # the interrupt came before the end
            world.driver.reset()
            views.clear()
        interop.release()
        waits = {consumer for _, consumer, _ in world.driver.made("cuStreamWaitEvent")}
        assert world.p.cuda_stream in waits or not made
        made.clear()

    interrupt(work, check)


def test_memory_is_not_let_go_early(world):
    """While the device is not done, nothing that was handed over goes, wherever the interrupts come."""
    kept, views = [], []

    def work():
        source = Array()
        kept.append(weakref.ref(source))
        views.append(interop.handoff(source, world.c, producer=world.p))
        del source
        world.driver.fail("cuEventQuery", 600)
        views.clear()

    def check():
        gone = [one for one in kept if one() is None]
        # Not handed over at all, if the interrupt came before; else it is there still.
        assert len(gone) <= 1
        assert not gone or not views
        world.driver.reset()
        views.clear()
        interop.release()
        interop.release()
        kept.clear()

    interrupt(work, check)
