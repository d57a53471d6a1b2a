"""Delays on the device, of a known length."""

from typing import Final

from interop._cuda import Cuda
from interop._show.text import described
from interop.errors import NotSupportedError
from interop.stream import ExternalStream, as_stream
from interop.testing import device
from interop.testing.gate import some_are_shut

_LONGEST: Final = 10_000.0
_PER_MILLISECOND: Final = 1_000_000

# One thread reads the clock until its time is over. The kernel is PTX, which the driver compiles.
# https://docs.nvidia.com/cuda/parallel-thread-execution/#special-registers-globaltimer
_NAME: Final = b"interop_slow"
_PTX: Final = b"""
.version 6.0
.target sm_50
.address_size 64

.visible .entry interop_slow(.param .u64 nanoseconds)
{
    .reg .pred %early;
    .reg .u64 %start, %now, %passed, %length;
    ld.param.u64 %length, [nanoseconds];
    mov.u64 %start, %globaltimer;
again:
    mov.u64 %now, %globaltimer;
    sub.u64 %passed, %now, %start;
    setp.lt.u64 %early, %passed, %length;
    @%early bra again;
    ret;
}
"""

_kernels: Final[dict[tuple[Cuda, int], int]] = {}


def slow(stream: object, milliseconds: float) -> None:
    """Keep *stream* busy for a time; returns at once. Work that is submitted later starts later by that time.

    Example::

        interop.testing.slow(producer, 50)  # milliseconds
        assert not producer.query()

    A kernel of one thread spins until the time is over, by the device's clock, so other streams keep nearly all of the
    device. The first call for a device loads the kernel, which may wait for the device: call ``slow(stream, 0)`` before
    if that matters. The simulator has no time; there, this is a piece of work like any other. On a stream that
    captures, it becomes part of the graph.

    Args:
        stream: anything that :func:`interop.as_stream` takes.
        milliseconds: from 0 to 10,000. To hold a stream for as long as a test wants, use
            :func:`interop.testing.gate`.

    Raises:
        ValueError: *milliseconds* is not a number in that range.
        NotSupportedError: a gate is shut, and the kernel is not loaded yet: to load it could wait for ever.
    """
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float) or not 0 <= milliseconds <= _LONGEST:
        message = f"milliseconds is a number from 0 to {_LONGEST:.0f}; got {described(milliseconds)}"
        raise ValueError(message)
    stream = as_stream(stream)
    cuda = stream._cuda
    if cuda.simulation is not None:
        cuda.simulation.launch(stream, lambda: None, name=f"slow, {milliseconds} ms")
        return
    context = stream._usable_context()
    device.kernel_launch(cuda, _kernel(stream), round(milliseconds * _PER_MILLISECOND), stream._handle, context)


def _kernel(stream: ExternalStream) -> int:
    key = (stream._cuda, stream._context_id)
    kernel = _kernels.get(key)
    if kernel is None:
        if some_are_shut():
            message = (
                "the kernel of slow() is not loaded for this device yet, and loading it behind a closed gate could "
                f"wait for ever: call slow({stream!r}, 0) once before the gate is shut"
            )
            raise NotSupportedError(message)
        kernel = _kernels[key] = device.kernel_load(stream._cuda, stream._context, _PTX, _NAME)
        # CUDA loads a kernel when it is first launched.
        device.kernel_launch(stream._cuda, kernel, 0, stream._handle, stream._context)
    return kernel
