"""JAX: XLA owns its streams. It offers none and takes none; its arrays come and go by DLPack."""

from typing import Any

from interop.adapters.base import Adapter, Source, Takes, Tensor, capsule
from interop.errors import NotSupportedError

_WHY = "JAX takes no stream from outside: XLA makes its own, and gives none away"
_INSTEAD = 'hand it arrays with interop.handoff(array, stream, into="jax"), which orders JAX\'s stream after that one'


class _Immutable:
    """Memory by the kind of capsule that JAX takes, which cannot say "read-only": JAX writes to no array."""

    def __init__(self, tensor: Tensor, holder: Any) -> None:  # noqa: ANN401
        self._tensor = tensor
        self._holder = holder

    def __dlpack__(self, *, stream: int | None = None, **_: object) -> object:
        self._holder.__dlpack__(stream=stream, max_version=(1, 0))  # which makes the stream wait
        return capsule(self._tensor, self._holder, versioned=False)

    def __dlpack_device__(self) -> Any:  # noqa: ANN401
        return self._holder.__dlpack_device__()


class JaxAdapter(Adapter):
    """No stream type, no event type."""

    library = "jax"
    instead = _INSTEAD
    takes = Takes(negative_strides=False, zero_strides=False, overlapping=False, gaps=False, read_only=True)
    needs_extension = True
    immutable = True
    orders_itself = True

    def stream_handle(self, stream: object) -> int | None:  # noqa: ARG002
        """JAX has no stream objects."""
        return None

    def make_stream(self, source: Source) -> object:  # noqa: ARG002
        """Say why not, and what to do."""
        message = f"{_WHY}; {_INSTEAD}"
        raise NotSupportedError(message)

    def is_array(self, array: object) -> bool:
        """Any concrete array."""
        import jax  # noqa: PLC0415  (half a second, and only its arrays need it)

        return isinstance(array, jax.Array)

    def make_array(self, tensor: Tensor, holder: Any) -> object:  # noqa: ANN401
        """JAX asks for a stream of its own to be ordered."""
        import jax  # noqa: PLC0415

        return jax.dlpack.from_dlpack(_Immutable(tensor, holder), copy=False)


ADAPTER = JaxAdapter()
