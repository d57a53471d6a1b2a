"""What CUDA tells about a stream."""

from interop import _cuda
from interop._core import borrowing, captures, names
from interop._core.identity import StreamIdentity
from interop.errors import CudaError, DeviceMismatchError, InvalidStreamError


class StreamProperties(StreamIdentity):
    """The device of a stream, its priority, its id, and whether it captures. A base class of ``ExternalStream``."""

    __slots__ = ()

    @property
    def device(self) -> int:
        """The ordinal of the stream's device."""
        device = self._device
        if device is None:
            context, devices = self._usable_context(), self._cuda.devices
            device = devices.get(self._context_id)
            if device is None:
                device = devices[self._context_id] = self._cuda.device_of(context)
            self._device = device
            borrowing.update_borrowed(self)
        return device

    @property
    def priority(self) -> int:
        """The stream's priority: the lower the number, the sooner its work is taken up; 0 is the default."""
        self._usable_context()
        self._priority = self._cuda.stream_priority(self._handle, self._needs)
        return self._priority

    @property
    def stream_id(self) -> int:
        """CUDA's number of the stream. It is never used again in this process; addresses of streams are.

        Raises:
            CaptureError: the stream captures, and the number is not known from an earlier call: CUDA would invalidate
                the capture.
        """
        self._usable_context()
        if self._id is None:
            captures.refuse_capturing(self, "tell the id of")
            self._id = self._cuda.stream_id(self._handle, self._needs)
        return self._id

    def is_capturing(self) -> bool:
        """Whether a CUDA graph is being captured on the stream.

        Example::

            if not producer.is_capturing():
                producer.synchronize()  # raises CaptureError in a capture

        The legacy default stream of a device's primary context cannot capture; that of a green context can.
        """
        self._usable_context()
        try:
            return bool(self._cuda.stream_capture(self._handle, self._needs))
        except CudaError as error:
            # While a blocking stream captures, CUDA answers no question about the legacy stream.
            if self._handle == _cuda.LEGACY and error.code == _cuda.CAPTURE_IMPLICIT:
                return False
            raise

    def capture_id(self) -> int:
        """The id of the graph capture that the stream is part of, or 0. Two streams of one capture have the same.

        Example::

            consumer.wait_stream(producer)
            assert consumer.capture_id() == producer.capture_id()  # both 0, unless producer captures

        Raises:
            CaptureError: the capture is invalidated.
        """
        return captures.capture_of(self) if self.is_capturing() else 0

    def _find_context(self, declared: int | None) -> None:
        """Find the context of a default stream, which is the one that is current now; check the *declared* device."""
        cuda = self._cuda
        if self._handle <= _cuda.PER_THREAD:
            self._context = cuda.current_context() if declared is None else cuda.primary_context(declared)
            self._device = declared
        elif declared is not None and self.device != declared:
            message = f"device={declared} was given for stream {self._handle:#x}, which is on device {self.device}"
            raise DeviceMismatchError(message)
        if _cuda.CHECK:
            borrowing.refuse_stale(self)
        if names.addresses:
            names.recognise(self)

    def _usable_context(self) -> int:
        """Make sure that the calling thread can use the stream now; the stream's context."""
        if self._is_of_another_thread:
            message = (
                f"{self!r} was borrowed in another thread: the per-thread default stream is a different stream in "
                "every thread. Borrow it in this one, or record an event there and wait for it here"
            )
            raise InvalidStreamError(message)
        if _cuda.CHECK:
            borrowing.refuse_stale(self)
        if not self._context_id:
            if self._handle > _cuda.PER_THREAD:
                self._context = int(self._cuda.drive("cuStreamGetCtx", self._handle))
            elif not self._context:
                self._find_context(None)
            self._context_id = self._cuda.context_id(self._context)
            if self._cuda.uses_extension and self._handle != _cuda.PER_THREAD:
                self._pool = self._cuda.pool(self._context_id)
                borrowing.update_borrowed(self)
        return self._context
