"""Every ordered pair of libraries: proved by capture, and seen in values behind a gate; each with its control."""

import itertools

import pytest

import interop
from interop.testing import assert_not_ordered, assert_ordered
from tests.gpu.lab import STALE, STREAMS, WRITTEN, call, on_device, pair, race, runtime

PAIRS = list(itertools.product(STREAMS, repeat=2))
ONE = (0, 0)
TWO = [(0, 1), (1, 0)]

both = pytest.mark.parametrize(("producer", "consumer"), PAIRS)


def waits(consumer, producer):
    interop.as_stream(consumer).wait_stream(producer)


@pytest.fixture(autouse=True)
def _needs(request):
    for name in ("producer", "consumer"):
        library = request.node.callspec.params.get(name) if hasattr(request.node, "callspec") else None
        if library not in (None, "int"):
            request.getfixturevalue("interop_need")(library)


@both
def test_wait_stream_orders(producer, consumer):
    p, c = pair(producer, consumer)
    with assert_ordered(p, c):
        waits(c, p)


@both
def test_control_nothing_is_ordered_without_it(producer, consumer):
    p, c = pair(producer, consumer)
    with assert_not_ordered(p, c):
        interop.as_stream(c), interop.as_stream(p)


@both
def test_the_other_way_round_is_not_ordered(producer, consumer):
    p, c = pair(producer, consumer)
    with assert_not_ordered(c, p):
        pass
    with assert_ordered(c, p):
        waits(p, c)


@both
def test_values_are_right_and_the_host_free(producer, consumer):
    p, c = pair(producer, consumer)
    assert race(p, c, ONE, lambda: waits(c, p)) == WRITTEN


@both
def test_control_values_are_stale_without_it(producer, consumer):
    p, c = pair(producer, consumer)
    assert race(p, c, ONE, None) == STALE


@both
@pytest.mark.parametrize("devices", TWO)
@pytest.mark.parametrize("current", [0, 1])
def test_two_devices(producer, consumer, devices, current, interop_need):
    interop_need("gpu2")
    p, c = pair(producer, consumer, devices)
    with on_device(current):
        with assert_ordered(p, c):
            waits(c, p)
        with assert_not_ordered(p, c):
            pass
        assert race(p, c, devices, lambda: waits(c, p)) == WRITTEN
        assert race(p, c, devices, None) == STALE
        assert call(runtime.cudaGetDevice()) == current


def test_several_producers_each_behind_its_own_gate():
    one, other, consumer = STREAMS["int"](), STREAMS["int"](), STREAMS["int"]()
    for held in (one, other):
        assert race(held, consumer, ONE, lambda: interop.as_stream(consumer).wait_stream(one, other)) == WRITTEN
