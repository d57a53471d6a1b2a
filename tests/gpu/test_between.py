"""Arrays between two processes, each held up by a gate in turn: ordered both ways; and what is left after a kill -9."""

import gc
import importlib.util
import time
from pathlib import Path

import pytest

import interop
from interop.errors import InvalidTokenError, NotSupportedError, ProcessDiedError
from interop.testing import gate
from tests.gpu.lab import STALE, WRITTEN
from tests.gpu.other_process import Other
from tests.gpu.test_arrays import AGAIN, PRODUCERS, address_of, cupy_array, memset, reset

LIBRARIES = ["cupy", "torch", "numba"]
CONSUMERS = [*LIBRARIES, "jax"]


@pytest.fixture(autouse=True)
def _needs(request, interop_need):
    params = getattr(getattr(request.node, "callspec", None), "params", {})
    for library in {"cupy", *params.values()} & {*CONSUMERS}:
        interop_need(library)


@pytest.fixture(scope="module")
def started():
    """One process with all the libraries that are there, for the whole file; and a new one if it was ended."""
    found = []

    def alive():
        if not found or not found[-1].process.is_alive():
            found.append(Other(*(library for library in CONSUMERS if importlib.util.find_spec(library))))
            found[-1].answer(60)
        return found[-1]

    yield alive
    for one in found:
        one.kill()


@pytest.fixture
def other(started):
    one = started()
    yield one
    if one.is_late:  # what it has not answered yet would be taken for the answer of the next test
        one.kill()


@pytest.fixture
def victim():
    """A process that is killed."""
    made = Other("cupy")
    made.answer(60)
    yield made
    made.kill()


@pytest.fixture
def p():
    return interop.new_stream()


def written(p, array, value):
    memset(address_of(array), value, p)


@pytest.mark.parametrize("producer", LIBRARIES)
@pytest.mark.parametrize("consumer", CONSUMERS)
def test_the_consumer_waits_behind_the_producers_gate(other, p, producer, consumer):
    array = PRODUCERS[producer](p)
    reset(array)
    with gate(p) as shut:
        written(p, array, WRITTEN)
        token = interop.share(array, p)
        early = other.ask("receive", token, consumer)
        assert not shut.is_open, "a host was blocked"
        assert consumer == "jax" or not early
    assert other.ask("result") == [WRITTEN]
    other.ask("release")
    assert token.returned(timeout=10)


@pytest.mark.parametrize("consumer", LIBRARIES)
def test_control_a_stream_that_does_not_wait_reads_stale(other, p, consumer):
    array = cupy_array(p)
    reset(array)
    with gate(p):
        written(p, array, WRITTEN)
        token = interop.share(array, p)
        other.ask("receive_unordered", token, consumer)
        assert other.ask("unordered_read") == [STALE]
    other.ask("release")


@pytest.mark.parametrize("producer", LIBRARIES)
@pytest.mark.parametrize("consumer", LIBRARIES)
def test_the_producer_waits_behind_the_consumers_gate(other, p, producer, consumer):
    array = PRODUCERS[producer](p)
    reset(array)
    written(p, array, WRITTEN)
    token = interop.share(array, p)
    other.ask("receive", token, consumer)
    other.ask("result")
    other.ask("shut")
    other.ask("read_again")
    assert not token.returned()
    other.ask("release")
    assert token.returned(timeout=10)
    written(p, array, AGAIN)
    time.sleep(0.05)
    assert not p.query(), "the producer's stream did not wait"
    other.ask("open")
    assert other.ask("result") == [WRITTEN]
    p.synchronize(timeout=10)


def test_control_a_producer_that_does_not_wait_overwrites(other, p):
    array = cupy_array(p)
    reset(array)
    written(p, array, WRITTEN)
    token = interop.share(array, p)
    other.ask("receive", token, "cupy")
    other.ask("result")
    other.ask("shut")
    other.ask("read_again")
    written(p, array, AGAIN)  # before the array is back
    p.synchronize(timeout=10)
    other.ask("open")
    assert other.ask("result") == [AGAIN]
    other.ask("release")
    assert token.returned(timeout=10)


@pytest.mark.parametrize("consumer", ["jax"])
def test_jax_gives_back_when_it_is_done(other, p, consumer):
    array = cupy_array(p)
    reset(array)
    written(p, array, WRITTEN)
    token = interop.share(array, p)
    other.ask("receive", token, consumer)
    assert other.ask("result") == [WRITTEN]
    other.ask("release")
    deadline = time.monotonic() + 15
    while not token.returned(timeout=0.1) and time.monotonic() < deadline:
        other.ask("release")
    assert token.returned()


def test_a_part_of_an_array(other, p):
    whole = cupy_array(p)
    reset(whole)
    part = whole[1024:3072:2]
    written(p, whole, WRITTEN)
    token = interop.share(part, p)
    assert (token.shape, token.strides, str(token.dtype)) == ((1024,), (2,), "uint8")
    assert interop.receive(token, p, into="cupy").data.ptr == part.data.ptr
    gc.collect()
    assert token.returned(timeout=5)


# -- what cannot be shared -------------------------------------------------------------------------------------------


def jax_array(p):
    import jax.numpy as jnp

    return jnp.full(4096, STALE, dtype="uint8")


def pool_array(p):
    import cupy

    with cupy.cuda.using_allocator(cupy.cuda.MemoryAsyncPool().malloc):
        return cupy.zeros(4096, dtype="u1")


def managed_array(p):
    import cupy

    with cupy.cuda.using_allocator(cupy.cuda.malloc_managed):
        return cupy.zeros(4096, dtype="u1")


HIDDEN = {"jax": jax_array, "pool": pool_array, "managed": managed_array}


@pytest.mark.parametrize("memory", HIDDEN)
def test_memory_without_a_handle_is_copied_if_asked(other, p, memory, interop_need, request):
    if memory == "jax":
        interop_need("jax")
    array = HIDDEN[memory](p)
    if memory != "jax":
        memset(address_of(array), STALE, p)
    p.synchronize()
    with pytest.raises(NotSupportedError, match="copy=True"):
        interop.share(array, p)
    token = interop.share(array, p, copy=True)
    other.ask("receive", token, "cupy")
    assert other.ask("result") == [STALE]
    other.ask("release")
    assert token.returned(timeout=10)


def test_a_copy_is_made_in_order(other, p):
    array = cupy_array(p)
    reset(array)
    interop.share(array, p, copy=True).revoke()
    with gate(p) as shut:
        written(p, array, WRITTEN)
        token = interop.share(array, p, copy=True)
        early = other.ask("receive", token, "cupy")
        assert not shut.is_open
        assert not early
    assert other.ask("result") == [WRITTEN]
    other.ask("release")
    assert token.returned(timeout=10)


# -- tokens that are refused -----------------------------------------------------------------------------------------


def test_a_token_is_used_once_and_nothing_is_changed_in_it(other, p):
    array = cupy_array(p)
    token = interop.share(array, p)
    for part, value in {"offset": 1 << 40, "shape": (1 << 40,), "memory": bytes(64)}.items():
        parts = dict(zip(interop._between.token._PARTS, token._parts, strict=True))
        with pytest.raises(RuntimeError, match="InvalidTokenError"):
            other.ask("receive", interop.Token(*{**parts, part: value}.values()), "cupy")
    other.ask("receive", token, "cupy")
    with pytest.raises(RuntimeError, match="used before"):
        other.ask("receive", token, "cupy")
    with pytest.raises(InvalidTokenError, match="used before"):
        interop.receive(token, p)
    other.ask("release")
    assert token.returned(timeout=10)


# -- kill -9 ---------------------------------------------------------------------------------------------------------


def test_the_consumer_is_killed_with_the_array(victim, p):
    array = cupy_array(p)
    token = interop.share(array, p)
    victim.ask("receive", token, "cupy")
    victim.ask("hold_for_ever")
    victim.ask("read_again")
    victim.kill()
    with pytest.raises(ProcessDiedError):
        token.returned(timeout=10)
    written(p, array, AGAIN)
    p.synchronize(timeout=5)


def test_the_producer_is_killed_before_its_array_is_received(victim, p):
    token = victim.ask("share", WRITTEN)
    taken = interop.receive(victim.ask("share", WRITTEN), p, into="cupy")
    p.synchronize(timeout=10)
    assert set(taken.get()) == {WRITTEN}
    victim.kill()
    with pytest.raises(ProcessDiedError):
        interop.receive(token, p, into="cupy")
    del taken
    interop.release()


# -- long runs -------------------------------------------------------------------------------------------------------


def test_many_hand_overs_leave_nothing(other, p):
    array = cupy_array(p)

    def rounds(n):
        for _ in range(n // 10):
            tokens = [interop.share(array, p) for _ in range(10)]
            other.ask("rounds", tokens)
            assert all(token.returned(timeout=5) for token in tokens)
        time.sleep(0.1)
        interop.release()
        gc.collect()
        return len([*Path("/proc/self/fd").iterdir()]), other.ask("descriptors")

    before = rounds(50)
    after = rounds(1000)
    assert all(new <= old + 4 for new, old in zip(after, before, strict=True)), (before, after)
