"""Arrays between simulated processes: both ways are ordered, and each control races. The sockets are real."""

import gc
import pickle
import threading
import time
from pathlib import Path

import pytest

import interop
from interop import sim
from interop.errors import InvalidTokenError, NotSupportedError, ProcessDiedError, RaceError

THERE = 1


def fill(value):
    def kernel(x):
        x[:] = value

    return kernel


@pytest.fixture
def gpu():
    with sim.simulate() as gpu:
        yield gpu


@pytest.fixture
def streams(gpu):
    return interop.as_stream(gpu.stream("producer")), interop.as_stream(gpu.stream("consumer"))


def sent(token):
    return pickle.loads(pickle.dumps(token))


def read(gpu, stream, array):
    gpu.launch(stream, len, reads=[array], name="read")


@pytest.mark.parametrize("where", [0, THERE])
def test_both_ways_are_ordered(gpu, streams, where):
    producer, consumer = streams
    x = gpu.array([0, 0], "x")
    gpu.launch(producer, fill(3), writes=[x])
    token = interop.share(x, producer)
    with gpu.process(where):
        y = interop.receive(sent(token), consumer)
    seen = []
    gpu.launch(consumer, lambda y: seen.append(y.tolist()), reads=[y])
    assert not token.returned()
    del y
    assert token.returned(timeout=5)
    gpu.launch(producer, fill(4), writes=[x])
    gpu.synchronize()
    assert seen == [[3, 3]]


@pytest.mark.parametrize("where", [0, THERE])
def test_control_without_the_wait_of_the_consumer(gpu, streams, where):
    producer, consumer = streams
    x = gpu.array([0, 0])
    gpu.launch(producer, fill(3), writes=[x])
    token = interop.share(x, producer)
    other = interop.as_stream(gpu.stream())
    with gpu.process(where):
        y = interop.receive(sent(token), consumer)
    with pytest.raises(RaceError):
        read(gpu, other, y)


@pytest.mark.parametrize("where", [0, THERE])
def test_control_of_the_way_back(gpu, streams, where):
    producer, consumer = streams
    x = gpu.array([0, 0])
    token = interop.share(x, producer)
    with gpu.process(where):
        y = interop.receive(sent(token), consumer)
    read(gpu, consumer, y)
    with pytest.raises(RaceError):
        gpu.launch(producer, fill(4), writes=[x])
    assert not token.returned(timeout=0.05)
    del y
    assert token.returned(timeout=5)
    gpu.launch(producer, fill(4), writes=[x])


def test_no_host_waits_for_the_device(gpu, streams):
    producer, consumer = streams
    x = gpu.array([0])
    gate = gpu.gate(producer)
    gpu.launch(producer, fill(3), writes=[x])
    with gpu.host_waits() as waits:
        token = interop.share(x, producer)
        with gpu.process(THERE):
            y = interop.receive(sent(token), consumer)
        read(gpu, consumer, y)
        del y
        assert token.returned(timeout=5)
    assert not waits
    gate.open()


def test_a_token_is_for_one_consumer(gpu, streams):
    producer, consumer = streams
    token = interop.share(gpu.array([0]), producer)
    with gpu.process(THERE):
        y = interop.receive(sent(token), consumer)
        with pytest.raises(InvalidTokenError, match="used before"):
            interop.receive(sent(token), consumer)
    with pytest.raises(InvalidTokenError, match="used before"):
        interop.receive(token, consumer)
    del y
    assert token.returned(timeout=5)
    deadline = time.monotonic() + 5
    while token._lease.outcome == "" and time.monotonic() < deadline:
        time.sleep(0.01)
    with gpu.process(THERE), pytest.raises(InvalidTokenError, match="its lease is over"):
        interop.receive(sent(token), consumer)


def test_several_consumers_have_a_token_each(gpu, streams):
    producer, _ = streams
    x = gpu.array([0])
    tokens, arrays = [interop.share(x, producer) for _ in range(5)], []
    for number, token in enumerate(tokens, 1):
        with gpu.process(number):
            stream = interop.as_stream(gpu.stream())
            arrays.append(interop.receive(sent(token), stream))
            read(gpu, stream, arrays[-1])
    del arrays[0]
    assert tokens[0].returned(timeout=5)
    assert not any(token.returned() for token in tokens[1:])
    arrays.clear()
    assert all(token.returned(timeout=5) for token in tokens)
    gpu.launch(producer, fill(4), writes=[x])


def test_a_token_can_be_revoked(gpu, streams):
    producer, consumer = streams
    token = interop.share(gpu.array([0]), producer)
    assert token.revoke()
    assert token.returned()
    for where in (0, THERE):
        with gpu.process(where), pytest.raises(InvalidTokenError, match="its lease is over"):
            interop.receive(sent(token), consumer)


def test_a_token_that_is_used_cannot_be_revoked(gpu, streams):
    producer, consumer = streams
    token = interop.share(gpu.array([0]), producer)
    with gpu.process(THERE):
        y = interop.receive(sent(token), consumer)
    assert not token.revoke()
    del y
    assert token.returned(timeout=5)


def test_a_token_that_nobody_uses_is_void_in_time(gpu, streams):
    producer, consumer = streams
    token = interop.share(gpu.array([0]), producer, timeout=0.05)
    assert not token.returned()
    assert token.returned(timeout=5)
    with gpu.process(THERE), pytest.raises(InvalidTokenError, match="not used in time"):
        interop.receive(sent(token), consumer)


def test_the_death_of_the_consumer(gpu, streams):
    producer, consumer = streams
    x = gpu.array([0])
    token = interop.share(x, producer)
    with gpu.process(THERE):
        y = interop.receive(sent(token), consumer)
    gpu.kill(THERE)
    with pytest.raises(ProcessDiedError, match="has received"):
        token.returned(timeout=5)
    with pytest.raises(ProcessDiedError):
        token.check()
    del y
    gpu.launch(producer, fill(4), writes=[x])


def test_the_death_of_the_consumer_after_it_gave_back(gpu, streams):
    producer, consumer = streams
    x = gpu.array([0])
    token = interop.share(x, producer)
    with gpu.process(THERE):
        y = interop.receive(sent(token), consumer)
    gate = gpu.gate(consumer)
    del y
    assert token.returned(timeout=5)
    gpu.kill(THERE)
    deadline = time.monotonic() + 5
    while not token._lease.outcome and time.monotonic() < deadline:
        time.sleep(0.01)
    assert token._lease.outcome == "lost"
    gate.open()


def test_the_death_of_the_producer(gpu, streams):
    producer, consumer = streams
    with gpu.process(THERE):
        token = sent(interop.share(gpu.array([0]), producer))
        late = sent(interop.share(gpu.array([0]), producer))
    y = interop.receive(token, consumer)
    token.check()
    gpu.kill(THERE)
    deadline = time.monotonic() + 5
    while not token._loan.lost and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(ProcessDiedError, match="before"):
        token.check()
    with pytest.raises(ProcessDiedError, match="has ended, and the array with it"):
        interop.receive(late, consumer)
    del y


def test_a_consumer_that_cannot_take_it_gives_it_back(gpu, streams):
    producer, consumer = streams
    token = interop.share(gpu.array([0]), producer)
    gpu.processes._arrays.clear()
    with gpu.process(THERE), pytest.raises(interop.InvalidArrayError):
        interop.receive(sent(token), consumer)
    assert token.returned(timeout=5)


def test_captures_are_refused(gpu, streams):
    producer, consumer = streams
    token = interop.share(gpu.array([0]), producer)
    gpu.runtime.cudaStreamBeginCapture(producer.cuda_stream, 2)
    gpu.runtime.cudaStreamBeginCapture(consumer.cuda_stream, 2)
    with pytest.raises(interop.CaptureError, match="share before or after"):
        interop.share(gpu.array([0]), producer)
    with pytest.raises(interop.CaptureError, match="receive before or after"):
        interop.receive(sent(token), consumer)
    for stream in (producer, consumer):
        gpu.runtime.cudaStreamEndCapture(stream.cuda_stream)
    assert token.revoke()


@pytest.mark.parametrize("capturing", [0, 1])
def test_a_capture_delays_the_way_back(gpu, streams, capturing):
    producer, consumer = streams
    token = interop.share(gpu.array([0]), producer)
    with gpu.process(THERE):
        y = interop.receive(sent(token), consumer)
    gpu.runtime.cudaStreamBeginCapture(streams[capturing].cuda_stream, 2)
    del y
    assert not token.returned(timeout=0.1)
    gpu.runtime.cudaStreamEndCapture(streams[capturing].cuda_stream)
    assert token.returned(timeout=5)


def test_only_the_process_that_has_shared_is_asked(gpu, streams):
    token = interop.share(gpu.array([0]), streams[0])
    with gpu.process(THERE):
        for call in (token.returned, token.revoke):
            with pytest.raises(NotSupportedError, match="in that process only"):
                call()
    assert token.revoke()


def test_the_thread_runs_while_something_is_shared(gpu, streams):
    def count():
        return sum(thread.name == "interop" for thread in threading.enumerate())

    deadline = time.monotonic() + 5
    while count() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not count()
    token = interop.share(gpu.array([0]), streams[0])
    assert count() == 1
    token.revoke()
    while count() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not count()


def test_nothing_is_left_over(gpu, streams):
    producer, consumer = streams
    x = gpu.array([0])

    def once():
        token = interop.share(x, producer)
        with gpu.process(THERE):
            y = interop.receive(sent(token), consumer)
        del y
        assert token.returned(timeout=5)

    def left():
        gpu.synchronize()
        interop.release()
        time.sleep(0.1)
        gc.collect()
        return len([*Path("/proc/self/fd").iterdir()]), len(gpu._machine.events)

    for _ in range(50):
        once()
    before = left()
    for _ in range(200):
        once()
    after = left()
    assert after[0] <= before[0] + 3, (before, after)
    assert after[1] <= before[1] + 20, (before, after)
