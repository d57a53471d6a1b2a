"""A recognisable pattern in device memory, written in the order of a stream: who misses a wait sees it."""

from typing import Any, Final

from interop._arrays.reading import locate
from interop._order import watchers
from interop._show.text import described
from interop.errors import InvalidArrayError, NotSupportedError
from interop.stream import ExternalStream, as_stream
from interop.testing import device

POISON: Final = 0xFF
"""Every byte of what is poisoned: -1 as a signed integer, the greatest unsigned one, NaN as a floating-point number."""


def poison(array: object, stream: object) -> None:
    """Overwrite *array* with :data:`POISON`, in the order of *stream*; returns at once.

    Behind a gate, or after :func:`interop.testing.slow`, it takes the place of work whose result a reader must wait
    for: one that did sees the poison, one that did not sees what was there before. Or write it first, and what
    overwrites it behind the gate: then it is the reader that missed the wait who sees it.

    Args:
        array: anything with ``__cuda_array_interface__`` or ``__dlpack__``, in one block of memory and not read-only;
            or an array of the simulation that *stream* is of. It must be kept alive until that is done.
        stream: anything that :func:`interop.as_stream` takes. Nothing is ordered but what *stream* orders.

    Raises:
        InvalidArrayError: *array* is no array on a GPU, is read-only, or has gaps: only all of its bytes can be set.
        NotSupportedError: one of the two is simulated, and the other is not.
    """
    stream = as_stream(stream)
    if stream._cuda.simulation is not None:
        _check_simulated(array, stream)
        stream._cuda.simulation.launch(stream, _fill, writes=[array], name="poison")
        return
    address, size, _ = memory_of(array, writes=True)
    if size:
        device.memset(stream._cuda, address, POISON, size, stream._handle, stream._usable_context())


def is_poisoned(array: object, stream: object) -> bool:
    """Whether all elements of *array* have nothing but :data:`POISON` in them, as *stream* sees it. Blocks the host.

    If only some have, there is no verdict: a read that missed its wait may have come halfway. Data of one's own should
    not hold such elements, which are -1, or NaN.

    Args:
        array: as for :func:`poison`; read-only ones too.
        stream: the stream that it is copied to the host on, which is then waited for.

    Raises:
        AssertionError: some elements have, and others have not.
        InvalidArrayError: *array* is no array on a GPU, has gaps, or has no elements.
        NotSupportedError: one of the two is simulated, and the other is not.
    """
    stream = as_stream(stream)
    if stream._cuda.simulation is not None:
        _check_simulated(array, stream)
        stream.synchronize()
        values = stream._cuda.simulation.read(array)
        content, item = values.tobytes(), values.itemsize
    else:
        address, size, item = memory_of(array, writes=False)
        content = (
            device.copy_to_host(stream._cuda, address, size, stream._handle, stream._usable_context()) if size else b""
        )
        for watcher in watchers.active:
            watcher.finished(stream)  # the copy has waited for it
    if not content:
        message = f"{described(array)} has no elements: it cannot be poisoned, and shows nothing"
        raise InvalidArrayError(message)
    poisoned, all_of_them = 0, len(content) // item
    if (pattern := bytes([POISON]) * item) in content:
        poisoned = sum(content[at : at + item] == pattern for at in range(0, len(content), item))
    if 0 < poisoned < all_of_them:
        message = (
            f"no verdict: {poisoned} of {all_of_them} elements of {described(array)} hold nothing but 0xFF bytes. A "
            "read that missed its wait may have come halfway; or the data itself has such elements, -1 or NaN"
        )
        raise AssertionError(message)
    return poisoned > 0


def _check_simulated(array: object, stream: ExternalStream) -> None:
    from interop.sim import SimulatedArray  # noqa: PLC0415  (needs NumPy)

    if not isinstance(array, SimulatedArray):
        message = f"{described(array)} is no array of the simulation that {stream!r} is of: make it with gpu.array()"
        raise NotSupportedError(message)


def _fill(memory: Any) -> None:  # noqa: ANN401  (NumPy's, which is not needed without the simulator)
    memory.reshape(-1).view("u1")[...] = POISON


def memory_of(array: Any, *, writes: bool) -> tuple[int, int, int]:  # noqa: ANN401
    """Address, size, and size of an element, in bytes."""
    tensor = locate(array)
    bits = tensor.dtype.bits * tensor.dtype.lanes
    if bits % 8:
        message = f"the elements of {described(array)} are smaller than a byte"
        raise InvalidArrayError(message)
    if tensor.read_only and writes:
        message = f"{described(array)} is read-only, and cannot be poisoned"
        raise InvalidArrayError(message)
    if not tensor.is_dense():
        message = (
            f"{described(array)} has gaps between its elements, or repeats them: take a contiguous copy, or its base"
        )
        raise InvalidArrayError(message)
    start, stop = tensor.extent()
    return start, stop - start, bits // 8
