"""Draw docs/timeline.png: a pipeline through three libraries, on a GPU if there is one, or else on the simulator.

``make picture``, or ``python -m docs.timeline``.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import interop
from interop.errors import NoDeviceError
from interop.testing import slow

PICTURE: Final = Path(__file__).with_name("timeline.png")
_CHUNKS: Final = 4


def pipeline(load: object, compute: object, save: object) -> interop.Timeline:
    """Load, compute and save each chunk, on three streams. Delays stand for the work."""
    with interop.Timeline() as timeline:
        for _ in range(_CHUNKS):
            with timeline.span("load", load):
                slow(load, 3)
            interop.as_stream(compute).wait_stream(load)
            with timeline.span("compute", compute):
                slow(compute, 4)
            interop.as_stream(save).wait_stream(compute)
            with timeline.span("save", save):
                slow(save, 2)
    return timeline


@contextlib.contextmanager
def streams() -> Iterator[tuple[object, object, object]]:
    """A stream each of CuPy, PyTorch and Numba, with a name each; without a GPU, three simulated streams."""
    try:
        warm = interop.new_stream()
    except NoDeviceError:
        with interop.sim.simulate() as gpu:
            yield gpu.stream("loads"), gpu.stream("computes"), gpu.stream("saves")
        return
    slow(warm, 0)  # loads its kernel
    warm.synchronize()
    import cupy
    import torch
    from numba import cuda

    yield (
        interop.as_stream(cupy.cuda.Stream(non_blocking=True), name="loads"),
        interop.as_stream(torch.cuda.Stream(), name="computes"),  # type: ignore[no-untyped-call]
        interop.as_stream(cuda.stream(), name="saves"),
    )


if __name__ == "__main__":
    with streams() as three:
        pipeline(*three).save(PICTURE)
