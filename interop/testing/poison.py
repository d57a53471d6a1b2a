"""A recognisable pattern in device memory, written in the order of a stream. It shows which reader missed a wait."""

from typing import Any, Final

from interop._arrays.reading import locate
from interop._order import watchers
from interop._show.text import described
from interop.errors import InvalidArrayError, NotSupportedError
from interop.stream import ExternalStream, as_stream
from interop.testing import device

POISON: Final = 0xFF
"""The value of every poisoned byte: -1 as a signed integer, the greatest unsigned integer, NaN as a float."""


def poison(array: object, stream: object) -> None:
    """Overwrite *array* with :data:`POISON`, in the order of *stream*; returns at once.

    Example::

        from interop.testing import gate, is_poisoned, poison

        with interop.sim.simulate() as gpu:  # or real streams, and an array of any library
            producer, consumer = gpu.stream("producer"), gpu.stream("consumer")
            x = gpu.array([0.0, 0.0], name="x")
            with gate(producer):
                poison(x, producer)  # stands for the producer's result
                interop.as_stream(consumer).wait_stream(producer)  # the code to be tested
            assert is_poisoned(x, consumer)

    Behind a gate, or after :func:`interop.testing.slow`, the poison stands for the producer's result: a reader that
    waits sees the poison, and a reader without its wait sees the old values. Or write the poison first, and the result
    behind the gate: then the reader without its wait sees the poison.

    Args:
        array: anything with ``__cuda_array_interface__`` or ``__dlpack__``, contiguous and not read-only; or an
            array of the stream's simulation. Keep it alive until the write is done.
        stream: anything that :func:`interop.as_stream` takes. The write is in the order of this stream only.

    Raises:
        InvalidArrayError: *array* is not an array on a GPU, is read-only, or has gaps between its elements.
        NotSupportedError: *stream* is simulated, and *array* is not an array of its simulation.
    """
    stream = as_stream(stream)
    if stream._cuda.simulation is not None:
        _check_simulated(array, stream)
        stream._cuda.simulation.launch(stream, _fill, writes=[array], name="poison")
        return
    address, size, _ = memory_of(array, writes=True)
    if size:
        cuda = stream._cuda
        cuda.within(stream._usable_context(), cuda.call, "cudaMemsetAsync", address, POISON, size, stream._handle)


def is_poisoned(array: object, stream: object) -> bool:
    """Whether all elements of *array* are poisoned, as *stream* sees them. Blocks the host.

    Example::

        from interop.testing import is_poisoned, poison

        with interop.sim.simulate() as gpu:  # or a real stream, and an array of any library
            producer = gpu.stream("producer")
            x = gpu.array([0.0, 0.0], name="x")
            assert not is_poisoned(x, producer)
            poison(x, producer)
            assert is_poisoned(x, producer)

    An element is poisoned if all its bytes are :data:`POISON`. If only some elements are, there is no verdict: a read
    without its wait may have come halfway. Your own data should not have such elements, which are -1, or NaN.

    Args:
        array: as for :func:`poison`; it may be read-only.
        stream: the stream on which the array is copied to the host. The host waits for the stream.

    Raises:
        AssertionError: some elements are poisoned, and others are not.
        InvalidArrayError: *array* is not an array on a GPU, has gaps between its elements, or has no elements.
        NotSupportedError: *stream* is simulated, and *array* is not an array of its simulation.
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
            watcher.finished(stream)  # the copy has waited for the stream
    if not content:
        message = f"{described(array)} has no elements, so it cannot be poisoned: give an array with elements"
        raise InvalidArrayError(message)
    poisoned, all_of_them = 0, len(content) // item
    if (pattern := bytes([POISON]) * item) in content:
        poisoned = sum(content[at : at + item] == pattern for at in range(0, len(content), item))
    if 0 < poisoned < all_of_them:
        message = (
            f"no verdict: {poisoned} of {all_of_them} elements of {described(array)} hold nothing but 0xFF bytes. A "
            "read without its wait may have come halfway; or the data itself has such elements, -1 or NaN"
        )
        raise AssertionError(message)
    return poisoned > 0


def _check_simulated(array: object, stream: ExternalStream) -> None:
    from interop.sim import SimulatedArray  # noqa: PLC0415  (needs NumPy)

    if not isinstance(array, SimulatedArray):
        message = f"{described(array)} is no array of the simulation of {stream!r}: make the array with gpu.array()"
        raise NotSupportedError(message)


def _fill(memory: Any) -> None:  # noqa: ANN401  (NumPy's; NumPy is needed only with the simulator)
    memory.reshape(-1).view("u1")[...] = POISON


def memory_of(array: Any, *, writes: bool) -> tuple[int, int, int]:  # noqa: ANN401
    """The address of an array; its size, and the size of an element, in bytes."""
    tensor = locate(array)
    bits = tensor.dtype.bits * tensor.dtype.lanes
    if bits % 8:
        message = f"the elements of {described(array)} are not whole bytes: give an array of another dtype"
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
