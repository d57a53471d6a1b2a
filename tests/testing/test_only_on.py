"""assert_only_on, over recorded calls that are made for the test."""

import ctypes

import pytest

import interop
from interop.errors import NotSupportedError
from interop.ledger.driver import recorder
from interop.ledger.driver.calls import Call
from interop.testing import assert_only_on


def test_simulated_streams_are_refused():
    with interop.sim.simulate() as gpu, pytest.raises(NotSupportedError, match="real GPU"):
        assert_only_on(gpu.stream("s"))
    with pytest.raises(NotSupportedError, match="one stream or more"):
        assert_only_on()


class Recorded:
    """A recorder that is open, with these calls since the mark."""

    def __init__(self, *calls):
        self.calls = calls

    def mark(self):
        return 5

    def since(self, mark):
        assert mark == 5
        return iter(self.calls)


@pytest.fixture
def stream():
    memory = ctypes.create_string_buffer(64)  # no stream is there, but nobody asks
    return interop.ExternalStream(ctypes.addressof(memory), owner=memory)


def in_block(monkeypatch, stream, *calls):
    monkeypatch.setattr(recorder, "opened", [Recorded(*calls)])
    with assert_only_on(stream):
        pass


def test_work_on_the_stream_passes_and_waits_go_anywhere(monkeypatch, stream):
    handle = stream.cuda_stream
    in_block(
        monkeypatch, stream, Call(1, "launch", stream=handle), Call(2, "copy", stream=handle), Call(3, "wait", stream=1)
    )


def test_work_elsewhere_is_named_with_its_line(monkeypatch, stream):
    place = ((test_work_elsewhere_is_named_with_its_line.__code__, 7),)
    calls = [
        Call(1, "launch", stream=1, symbol="kernel", place=place),
        Call(2, "host copy", "cuMemcpyHtoD_v2", stream=2),
        Call(3, "set", "cuMemsetD8Async", stream=0x300),
    ]
    with pytest.raises(AssertionError) as failed:
        in_block(monkeypatch, stream, *calls)
    said = str(failed.value)
    assert f"kernel 'kernel' on the legacy default stream ({__file__}:7)" in said
    assert "cuMemcpyHtoD_v2 on the per-thread default stream" in said
    assert "cuMemsetD8Async on 0x300" in said


def test_an_error_of_the_block_goes_on(monkeypatch, stream):
    monkeypatch.setattr(recorder, "opened", [Recorded(Call(1, "launch", stream=1))])
    with pytest.raises(ZeroDivisionError), assert_only_on(stream):
        1 / 0  # noqa: B018
