"""What a signal handler that raises at a random time leaves behind: nothing."""

import pytest

import interop
from interop import _switching, sim
from tests.interrupts import interrupt
from tests.test_current import StandIn, handles, libraries

# An interrupt that comes in a finaliser is lost, as Python has it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

__all__ = ["StandIn", "libraries"]


@pytest.fixture
def gpu():
    with sim.simulate(devices=2) as gpu:
        yield gpu


WAYS = {
    "use": interop.use,
    "use of one library": lambda stream: interop.use(stream, "beta"),
    "stream": lambda stream: stream,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_blocks(gpu, libraries, way):
    gpu.runtime.cudaSetDevice(1)
    first, second = interop.new_stream(0), interop.new_stream(1)

    def work():
        with way(first):
            assert handles(libraries)[1] == first.cuda_stream
            with way(second):
                assert handles(libraries)[1] == second.cuda_stream
            assert handles(libraries)[1] == first.cuda_stream

    def check():
        assert _switching._thread.blocks == []
        assert handles(libraries) == [None, None]
        assert gpu.runtime.cudaGetDevice()[1] == 1
        libraries[0].log.clear()

    interrupt(work, check)
