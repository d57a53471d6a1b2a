"""The record of a run: its date, machine, packages and code, and what its tests have measured."""

import datetime as dt
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "apache-tvm-ffi",
    "cuda-bindings",
    "cuda-core",
    "cupy-cuda13x",
    "jax",
    "nccl4py",
    "numba",
    "numba-cuda",
    "numba-cuda-mlir",
    "numba-cuda-mlir",
    "numpy",
    "pytest",
    "nvidia-dali-cuda130",
    "rmm-cu13",
    "torch",
    "triton",
    "warp-lang",
)


MEASURED = Path(__file__).with_name("measured.json")
"""The file with an entry for each test that measures something."""


def measured(name: str, **numbers: object) -> None:
    """Write *numbers* as the entry *name* of :data:`MEASURED`. It replaces the entry of an earlier run."""
    entries = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    entries[name] = {**described_run(), **numbers}
    MEASURED.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")


def interop_sha256() -> str:
    """One hash of all sources in ``interop/``."""
    return sources_sha256((ROOT / "interop").rglob("*"))


def sources_sha256(paths: Iterable[Path]) -> str:
    """One hash of those *paths* that are sources: of the lines that ``sha256sum`` prints for them, sorted by name."""
    names = sorted(str(path.relative_to(ROOT)) for path in paths if path.suffix in (".py", ".c", ".h"))
    lines = [f"{hashlib.sha256((ROOT / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def described_run() -> dict[str, object]:
    """The date, the GPU, and the versions of driver and packages; empty without a GPU."""
    from cuda.bindings import driver, runtime

    code, count = runtime.cudaGetDeviceCount()
    if code or not count:
        return {}
    version = driver.cuDriverGetVersion()[1]
    return {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "gpu": runtime.cudaGetDeviceProperties(0)[1].name.split(b"\0")[0].decode(),
        "gpus": count,
        "driver": _driver(),
        "cuda_driver_api": f"{version // 1000}.{version % 1000 // 10}",
        "versions": {package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    path = Path("/proc/driver/nvidia/version")
    found = re.search(r"\d+\.\d[\d.]*", path.read_text()) if path.exists() else None
    return found[0] if found else None
