"""The steps of a ledger, while other threads add steps without end: each call returns, and few steps stay pending."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from interop.ledger import steps
from interop.ledger.steps import Steps

ENDLESS = 20_000


@pytest.mark.parametrize("wait", [True, False])
def test_a_call_does_not_take_steps_without_end(wait):
    taken = []

    def again():
        taken.append("another")
        if len(taken) < ENDLESS:
            ledger.take(again)

    ledger = Steps(0)
    ledger.pending.append(again)
    ledger.take(lambda: taken.append("mine"), wait=wait)
    assert "mine" in taken
    assert len(taken) <= steps._MORE + 2
    assert len(ledger.pending) == 1


def test_settled_takes_all_steps_so_far_in_order():
    taken = []
    ledger = Steps(0)
    for number in range(10 * steps._MORE):
        ledger.pending.append(lambda number=number: taken.append(number))
    ledger.settled()
    assert taken == list(range(10 * steps._MORE))
    assert not ledger.pending


def test_a_call_returns_while_other_threads_add_steps_without_end():
    ledger, stop = Steps(0), threading.Event()

    def busy():
        while not stop.is_set():
            ledger.take(lambda: time.sleep(1e-5))

    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(busy) for _ in range(3)]
        mine = pool.submit(ledger.take, lambda: None, wait=True)
        try:
            mine.result(timeout=30)
        finally:
            stop.set()
        for other in others:
            other.result()


def most_pending(times):
    """The most steps that were pending, while four threads add slow steps."""
    ledger, seen = Steps(0), []

    def slow():
        for _ in range(times):
            ledger.take(lambda: time.sleep(1e-4))
            seen.append(len(ledger.pending))

    with ThreadPoolExecutor(4) as pool:
        for worker in [pool.submit(slow) for _ in range(4)]:
            worker.result()
    ledger.settled()
    assert not ledger.pending
    return max(seen)


def test_threads_do_not_add_steps_faster_than_they_are_taken(monkeypatch):
    monkeypatch.setattr(steps, "_CROWD", 100)
    assert most_pending(1500) < 300


def test_control_without_the_pause_steps_pile_up(monkeypatch):
    monkeypatch.setattr(steps, "_CROWD", 10**9)
    assert most_pending(500) > 600


def test_a_step_inside_another_step_does_not_pause(monkeypatch):
    monkeypatch.setattr(steps, "_CROWD", 0)
    monkeypatch.setattr(steps, "_PAUSE", 3600)
    ledger, taken = Steps(0), []
    ledger.take(lambda: ledger.take(lambda: taken.append("inner")))
    assert taken == ["inner"]


def test_a_call_does_not_wait_for_a_step_that_waits_for_its_lock(monkeypatch):
    monkeypatch.setattr(steps, "_CROWD", 0)
    ledger, lock, inside, taken = Steps(0), threading.Lock(), threading.Event(), []

    def finaliser_in_a_step():
        inside.set()
        with lock:
            taken.append("outer")

    with ThreadPoolExecutor(1) as pool, lock:
        other = pool.submit(ledger.take, finaliser_in_a_step)
        assert inside.wait(20)
        ledger.take(lambda: taken.append("mine"))
        assert taken == []
        lock.release()
        try:
            other.result(timeout=20)
        finally:
            lock.acquire()
    ledger.settled()
    assert taken == ["outer", "mine"]
