"""JAX: its streams belong to XLA, which offers one to callbacks only, and takes none; its arrays go by DLPack."""

from collections.abc import Callable
from typing import Any

from interop.adapters.base import Adapter, Source, Takes, capsule
from interop.adapters.tensor import Tensor
from interop.errors import NotSupportedError

_WHY = "JAX takes no stream: XLA creates its own streams, and offers none"
_INSTEAD = 'hand it arrays with interop.handoff(array, stream, into="jax"), which orders JAX\'s stream after that one'


class _Immutable:
    """Offers memory by the unversioned capsule that JAX takes. It cannot say "read-only"; JAX writes to no array."""

    def __init__(self, tensor: Tensor, holder: Any) -> None:  # noqa: ANN401
        self._tensor = tensor
        self._holder = holder

    def __dlpack__(self, *, stream: int | None = None, **_: object) -> object:
        self._holder._order(stream)  # noqa: SLF001
        return capsule(self._tensor, self._holder, versioned=False)

    def __dlpack_device__(self) -> Any:  # noqa: ANN401
        return self._holder.__dlpack_device__()


class JaxAdapter(Adapter):
    """Arrays only: JAX has no type of stream or event."""

    library = "jax"
    instead = _INSTEAD
    takes = Takes(negative_strides=False, zero_strides=False, overlapping=False, gaps=False, read_only=True)
    needs_device = False
    needs_extension = True
    immutable = True
    orders_itself = True

    def stream_handle(self, stream: object) -> int | None:  # noqa: ARG002
        """No object is a stream of JAX."""
        return None

    def make_stream(self, source: Source) -> object:  # noqa: ARG002
        """Raise the error that says why not, and what to do."""
        message = f"{_WHY}; {_INSTEAD}"
        raise NotSupportedError(message)

    def is_array(self, array: object) -> bool:
        """A concrete jax.Array."""
        import jax  # noqa: PLC0415  (takes half a second; only arrays need it)

        return isinstance(array, jax.Array)

    def make_array(self, tensor: Tensor, holder: Any) -> object:  # noqa: ANN401
        """By DLPack, which JAX asks to order one of JAX's own streams."""
        import jax  # noqa: PLC0415

        return jax.dlpack.from_dlpack(_Immutable(tensor, holder), copy=False)

    def buffer_callback(
        self, callback: Callable[..., None], result_shapes: object, options: dict[str, Any]
    ) -> Callable[..., Any]:
        """A function of JAX's arrays: XLA calls ``callback(context, out, *buffers)`` while it submits work."""
        from jax.experimental.buffer_callback import buffer_callback  # noqa: PLC0415

        return buffer_callback(callback, result_shapes, **options)  # type: ignore[no-any-return]

    def tree_map(self, function: Callable[[Any], object], tree: object) -> Any:  # noqa: ANN401
        """The same tuples, lists and dicts, with the results of *function* in place of what they contain."""
        import jax  # noqa: PLC0415

        return jax.tree.map(function, tree)


ADAPTER = JaxAdapter()
