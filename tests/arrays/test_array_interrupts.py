"""A signal handler raises during a hand-over or its end: nothing leaks, and nothing is released early."""

import sys
import weakref

import pytest

import interop
from interop._arrays import handover, holder
from interop._arrays.keepalive import keepalive
from interop._order import watchers
from tests.arrays.test_exchange import Array, Library
from tests.interrupts import interrupt

native_stubs = pytest.importorskip("tests.native_stubs")

# Python only reports an exception that a signal handler raises in a finaliser.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class PythonHandover(holder.HandoverFields):
    """The handover that interop uses without the extension."""

    __slots__ = ()


@pytest.fixture(params=["C", "Python", "Python's holder"])
def world(request, driver, add_library, monkeypatch):
    """The stub driver. A watcher makes each call fall back to Python; Python's holder makes the end do so too."""
    library = Library()
    library.simulated = False
    add_library(library)
    watcher = watchers.Watcher()
    if request.param == "Python's holder":
        monkeypatch.setattr("interop._arrays.exchange.find", holder.find)
        monkeypatch.setattr("interop._arrays.exchange.Handover", PythonHandover)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # pytest's hook would keep the frames alive
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


def check_that_nothing_is_left(sources, world):
    """A check that everything is released, once the device is done and one more call was made."""
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


def test_an_interrupted_hold_leaks_nothing(world):
    sources = weakref.WeakSet()

    def work():
        thing = Array()
        sources.add(thing)
        interop.hold(world.c, thing)

    interrupt(work, check_that_nothing_is_left(sources, world))


def test_an_interrupted_handoff_leaks_nothing(world):
    sources = weakref.WeakSet()

    def work():
        source = Array()
        sources.add(source)
        interop.handoff(source, world.c, producer=world.p)

    interrupt(work, check_that_nothing_is_left(sources, world))


def test_an_interrupted_chain_leaks_nothing(world):
    sources = weakref.WeakSet()

    def work():
        source = Array()
        sources.add(source)
        view = interop.handoff(source, world.c, producer=world.p)
        interop.handoff(view, world.q)

    interrupt(work, check_that_nothing_is_left(sources, world))


def test_an_interrupted_borrow_leaks_nothing(world):
    sources = weakref.WeakSet()

    def work():
        source, other = Array(), Array()
        sources.update((source, other))
        with interop.borrow(source, other, consumer=world.c, producer=world.p):
            pass

    interrupt(work, check_that_nothing_is_left(sources, world))


def test_an_interrupted_release_leaks_nothing(world):
    sources = weakref.WeakSet()
    world.driver.fail("cuEventQuery", 600)

    def work():
        for stream in (world.c, world.p, world.c):
            source = Array()
            sources.add(source)
            interop.hold(stream, source)
        world.driver.reset()
        interop.release()

    interrupt(work, check_that_nothing_is_left(sources, world))


def test_an_interrupted_end_orders_the_way_back(world):
    """Whenever the interrupt comes, the producer waits for the consumer at the latest after the next call."""
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


def test_an_interrupt_releases_no_source_early(world):
    """Wherever the interrupts come, the sources live while the device is busy."""
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
        # A source may only be gone if the interrupt came before its hand-over.
        assert len(gone) <= 1
        assert not gone or not views
        world.driver.reset()
        views.clear()
        interop.release()
        interop.release()
        kept.clear()

    interrupt(work, check)
