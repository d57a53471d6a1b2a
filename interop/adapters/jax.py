"""JAX: XLA owns its streams. It offers none and takes none."""

from interop.adapters.base import Adapter, Source
from interop.errors import NotSupportedError

_WHY = "JAX takes no stream from outside: XLA makes its own, and gives none away"
_INSTEAD = "hand it arrays with jax.dlpack.from_dlpack, which orders JAX's stream after the producer's"


class JaxAdapter(Adapter):
    """No stream type, no event type."""

    library = "jax"
    instead = _INSTEAD
    no_arrays = ": JAX takes them by DLPack only. Use jax.dlpack.from_dlpack inside the producer's `with stream:`"
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


ADAPTER = JaxAdapter()
