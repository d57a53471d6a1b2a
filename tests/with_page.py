"""The lines of docs/with.md, and the record of what was run of them.

``tests/gpu/test_with.py`` runs lines on a GPU, each with its control. ``tests/tools/test_with.py``, which ``make with``
runs, gives simulated streams to libraries that need no driver for that. Both write ``tests/gpu/with.json``.
"""

import importlib.metadata
import json
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "with.md"
RECORD = ROOT / "tests" / "gpu" / "with.json"
_LINE = re.compile(r"^### ([^\n]*)\n\n<!-- with: (\S+) -->\n```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


class Line(NamedTuple):
    """The line of one library."""

    title: str
    text: str


LINES = {name: Line(title, text) for title, name, text in _LINE.findall(PAGE.read_text())}
"""By the import path of the library."""

ON_A_GPU = ("cupy.cuda.nccl", "nccl.core", "numba_cuda_mlir", "torch.distributed", "triton", "tvm_ffi")
"""Those that tests/gpu/test_with.py runs, where they are installed."""

WITHOUT_A_GPU = {
    "cuda.tile": "cuda-tile",
    "cutlass": "nvidia-cutlass-dsl",
    "nccl.core": "nccl4py",
    "nvidia.dali.experimental.dynamic": "nvidia-dali-cuda130",
    "nvshmem.core": "nvshmem4py-cu13",
    "onnxruntime": "onnxruntime",
    "quadrants": "quadrants",
    "tvm_ffi": "apache-tvm-ffi",
}
"""Those that tests/tools/test_with.py runs, or whose trap it shows, and the packages of tests/with.txt."""

GIVE_NO_ADDRESS = ("cuda.tile", "cutlass")
"""Those of them whose control is what they refuse."""

_WAITS = "nothing to run: the host waits"
WHY_NOT = {
    "onnxruntime": "needs a model; its trap was shown",
    "cuda.compute": "cannot be imported without a driver",
    "taichi": _WAITS,
    "tensorrt": "needs an engine",
    "cudnn": "needs a graph for the GPU that is there",
    "cvcuda": "cannot be imported without a driver",
    "nvidia.nvimgcodec": "its decoder cannot be made without a driver",
    "PyNvVideoCodec": "needs a video, and a driver to be imported",
    "torchcodec": "needs a video",
    "holoscan": "not tried",
    "pylibcudf": "not tried",
    "pylibraft": "not tried",
    "cuvs": _WAITS,
    "nvmath": "its operands cannot be read without a driver",
    "cuquantum": "not tried",
    "ucxx": _WAITS,
    "mpi4py": _WAITS,
    "kvikio": "not tried",
    "legate": "not tried",
    "max.driver": "not tried",
    "jax": "`tests/gpu/test_jax_call.py` tests `jax_call`",
    "paddle": "the package index has no wheel of Paddle 3",
    "pycuda": "the package index has no wheel",
    "tensorflow": _WAITS,
}
"""Why no test runs the line of the others, as far as it was tried."""


def version_of(module: str) -> str:
    """The package that a module is of, and its version."""
    packages = importlib.metadata.packages_distributions()
    package = WITHOUT_A_GPU.get(module) or packages[module.partition(".")[0]][0]
    return f"{package} {importlib.metadata.version(package)}"


def record(where: str, name: str, entry: dict[str, object] | None) -> None:
    """Write the entry of a line: of ``"gpu"`` or ``"no_gpu"``. None takes it away."""
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {"gpu": {}, "no_gpu": {}}
    record[where].pop(name, None)
    if entry is not None:
        record[where][name] = entry
    RECORD.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
