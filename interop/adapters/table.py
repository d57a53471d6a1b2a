"""What has to be known of a library before its adapter is loaded: one row a library, sorted by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

BINDINGS_VARIABLE: Final = "CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM"
CUPY_VARIABLE: Final = "CUPY_CUDA_PER_THREAD_DEFAULT_STREAM"


class Row(NamedTuple):
    """One library.

    Attributes:
        name: the import path of the library, by which calls of interop name it.
        packages: what pip installs: the library's extra in pyproject.toml without the lower bounds. ``{cuda}`` stands
            for the major version of CUDA.
        has_current_stream: whether the library has a current stream. Its adapter then overrides ``current_stream``.
        null: which default stream the library means by the handle 0. An empty string means the legacy one. The name of
            an environment variable means the per-thread one if the variable is 1, else the legacy one. None if the
            library has no streams.
        default: which default stream work goes to if the program names no stream, in the same terms. None if it goes
            to a stream that the library has created.
        modules: the top-level modules of the library beside the one in its name.
        distributions: the packages whose versions ``doctor`` shows for the library; if there are none, those that
            contain its top-level module.
    """

    name: str
    packages: str
    has_current_stream: bool
    null: str | None
    default: str | None
    modules: tuple[str, ...] = ()
    distributions: tuple[str, ...] = ()

    @property
    def adapter(self) -> str:
        """The module of its adapter."""
        return f"interop.adapters.{self.name.replace('.', '_')}"


_ROWS: Final = (
    Row(
        "cuda.bindings",
        '"cuda-python>=12.9,<14"',
        has_current_stream=False,
        null=BINDINGS_VARIABLE,
        default=BINDINGS_VARIABLE,
        distributions=("cuda-bindings",),
    ),
    Row(
        "cuda.core",
        "cuda-core",
        has_current_stream=False,
        null=BINDINGS_VARIABLE,
        default=BINDINGS_VARIABLE,
        distributions=("cuda-core",),
    ),
    Row(
        "cupy",
        "cupy-cuda{cuda}x",
        has_current_stream=True,
        null="",
        default=CUPY_VARIABLE,
        modules=("cupyx",),
    ),
    Row("jax", '"jax[cuda{cuda}]"', has_current_stream=False, null=None, default=None),
    Row(
        "numba",
        '"numba-cuda[cu{cuda}]" "numpy<2.5"',
        has_current_stream=False,
        null=BINDINGS_VARIABLE,
        default=BINDINGS_VARIABLE,
        modules=("numba_cuda",),
        distributions=("numba", "numba-cuda"),
    ),
    Row("numba_cuda_mlir", '"numba-cuda-mlir[cu{cuda}]"', has_current_stream=False, null="", default=""),
    Row(
        "nvidia.dali.experimental.dynamic",
        "nvidia-dali-cuda{cuda}0",
        has_current_stream=True,
        null="",
        default=None,
        distributions=("nvidia-dali-cuda120", "nvidia-dali-cuda130"),
    ),
    Row("rmm", "rmm-cu{cuda}", has_current_stream=False, null="", default=""),
    Row("torch", "torch", has_current_stream=True, null="", default=""),
    Row("tvm_ffi", "apache-tvm-ffi", has_current_stream=True, null="", default=""),
    Row("warp", "warp-lang", has_current_stream=True, null="", default=None),
)

TABLE: Final[Mapping[str, Row]] = MappingProxyType({row.name: row for row in _ROWS})
"""The rows by the names of the libraries."""


def may_have_current_stream(library: str) -> bool:
    """Whether a library has a current stream. True for one without a row: only its adapter can tell."""
    return library not in TABLE or TABLE[library].has_current_stream
