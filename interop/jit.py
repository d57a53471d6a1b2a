"""Other libraries' work inside ``jax.jit``: on XLA's own stream, over XLA's own buffers."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from interop._arrays.exchange import array_maker
from interop._arrays.limits import refusal
from interop._arrays.reading import locate
from interop._show.text import described
from interop.adapters import adapter_named
from interop.adapters.base import Adapter
from interop.current import use
from interop.errors import NotSupportedError
from interop.stream import ExternalStream


def jax_call(
    function: Callable[..., None],
    result_shapes: object,
    *,
    into: str,
    **options: Any,  # noqa: ANN401  (those of JAX)
) -> Callable[..., Any]:
    """Make a function of JAX's arrays, for use inside ``jax.jit`` too, from one that works with another library.

    Example::

        import cupy, jax

        def double(stream, out, x):  # out and x are of CuPy, and stream is current
            cupy.multiply(x, 2, out=out)

        x = jax.numpy.arange(4.0)
        doubled = interop.jax_call(double, x, into="cupy")  # the result has x's shape and type
        y = jax.jit(lambda x: doubled(x + 1) - 1)(x)  # [1. 3. 5. 7.]

    While XLA submits the computation, it calls ``function(stream, out, *arrays)``. *stream* is XLA's own stream, an
    :class:`ExternalStream` that is current in every library, as in :func:`use`. What *function* submits to it is in
    order with XLA's work before and after. Nothing is copied, and the host waits for nothing.

    Args:
        function: writes its results into *out* and returns None. *out* has the structure of *result_shapes*, the
            *arrays* have that of the arguments; all are C-contiguous arrays of the library *into*, over XLA's memory.
        result_shapes: a ``jax.ShapeDtypeStruct`` or array of the result's shape and type; or a tuple, list or dict.
        into: the library of the arrays: ``"cupy"``, ``"numba"``, ``"torch"`` or ``"cuda.core"``.
        options: of JAX's ``buffer_callback``: ``vmap_method``, such as ``"broadcast_all"``, without which ``vmap`` is
            an error; ``has_side_effect``, ``input_output_aliases`` and ``command_buffer_compatible``.

    Raises:
        TypeError: *function* cannot be called, or JAX has no such option.
        LibraryNotFoundError, NotSupportedError: JAX or *into* is not installed, or *into* makes no such arrays.
        jax.errors.JaxRuntimeError: when it runs: *function* has raised, as the message tells with the traceback; or the
            computation is not on a GPU; or *into* cannot take an array. It can be raised where the result is used.

    Note:
        **Lifetime.** The arrays, and views of them, are for the call only: then XLA gives their memory to other work.
        One that is kept is wrong, and may be another computation's data; nothing can detect that. The same holds for
        *stream*. Work on other streams has to be joined: ``other.wait_stream(stream)`` before, and
        ``stream.wait_stream(other)`` after it, as :func:`borrow` does.

        **Inputs** are constants to JAX. CuPy, Numba and PyTorch have no read-only arrays: do not write to an
        input, unless ``input_output_aliases`` makes it the output too. cuda.core's views are read-only.

        **Threads.** XLA calls *function* in the thread that submits the computation, which need not be the main one;
        with several devices, in several at a time. The device of *stream* is current there. Until *function* returns,
        XLA submits nothing more: do not wait for the device in it.

        **Command buffers.** With ``command_buffer_compatible=True``, XLA may call *function* while *stream* captures a
        graph, and then replay the graph in place of further calls. So *function* must do the same each time, and use no
        memory but *out*, *arrays*, and what lives as long as the compiled computation: memory that a pool takes back
        after the call is still written to by the graph.

        **Gradients.** JAX needs a rule: ``jax.custom_vjp``.
    """
    if not callable(function):
        message = f"jax_call(function, result_shapes, into=...) calls its function; got {described(function)}"
        raise TypeError(message)
    jax: Any = adapter_named("jax")
    adapter = array_maker(into)
    if adapter is jax:
        message = "into= names the library of the arrays that the function gets; JAX's own work needs no jax_call"
        raise NotSupportedError(message)
    return jax.buffer_callback(_Callback(function, adapter, jax.tree_map), result_shapes, options)  # type: ignore[no-any-return]


class _Callback(NamedTuple):
    """What XLA calls. It is equal to another of the same function, so that JAX compiles the two once."""

    function: Callable[..., None]
    adapter: Adapter
    tree_map: Callable[[Callable[[Any], object], object], Any]

    def __call__(self, context: Any, out: object, *buffers: object, **named: object) -> None:  # noqa: ANN401
        """Call the function in XLA's place."""
        try:
            handle = context.stream
        except Exception as error:
            message = (
                "jax_call works on a GPU's stream, and this computation runs on a device that has none: compute on a "
                "GPU, or call NumPy by jax.pure_callback"
            )
            raise NotSupportedError(message) from error
        with use(ExternalStream(handle)) as stream:
            to_array = partial(_array, self.adapter, stream.device)
            out, buffers, named = self.tree_map(to_array, (out, buffers, named))
            result: object = self.function(stream, out, *buffers, **named)
        if result is not None:
            message = (
                f"a function of jax_call writes its results into its second argument; got {described(result)} from it"
            )
            raise TypeError(message)


def _array(adapter: Adapter, device: int, buffer: object) -> object:
    """The library's array over a buffer of XLA, which needs no order and is not kept alive."""
    tensor = locate(buffer, device=device)
    if reason := refusal(tensor, adapter, "allow"):
        raise NotSupportedError(reason)
    return adapter.make_array(tensor, buffer)
