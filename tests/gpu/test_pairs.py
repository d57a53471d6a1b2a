"""Each pair of libraries: a wait orders them, proved by capture and by values behind a gate, each with its control."""

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
def test_control_without_a_wait_nothing_is_ordered(producer, consumer):
    p, c = pair(producer, consumer)
    with assert_not_ordered(p, c):
        interop.as_stream(c), interop.as_stream(p)


@both
def test_a_wait_orders_one_direction_only(producer, consumer):
    p, c = pair(producer, consumer)
    with assert_not_ordered(c, p):
        pass
    with assert_ordered(c, p):
        waits(p, c)


@both
def test_after_a_wait_values_are_right_and_the_host_is_free(producer, consumer):
    p, c = pair(producer, consumer)
    assert race(p, c, ONE, lambda: waits(c, p)) == WRITTEN


@both
def test_control_without_a_wait_values_are_stale(producer, consumer):
    p, c = pair(producer, consumer)
    assert race(p, c, ONE, None) == STALE


@both
@pytest.mark.parametrize("devices", TWO)
@pytest.mark.parametrize("current", [0, 1])
def test_a_wait_orders_streams_of_two_devices(producer, consumer, devices, current, interop_need):
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


def test_the_consumer_waits_for_each_of_several_producers():
    one, other, consumer = STREAMS["int"](), STREAMS["int"](), STREAMS["int"]()
    for held in (one, other):
        assert race(held, consumer, ONE, lambda: interop.as_stream(consumer).wait_stream(one, other)) == WRITTEN
