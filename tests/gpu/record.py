"""What a record of a run says: when, where, with what, and on which code; and what its tests have measured."""

import datetime as dt
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "cuda-bindings",
    "cuda-core",
    "cupy-cuda13x",
    "jax",
    "numba",
    "numba-cuda",
    "numpy",
    "pytest",
    "rmm-cu13",
    "torch",
    "warp-lang",
)


MEASURED = Path(__file__).with_name("measured.json")
"""What the tests have measured, one entry each: tests/gpu/measured.json."""


def measured(name: str, **numbers: object) -> None:
    """Write what a test has measured as the entry *name* of :data:`MEASURED`, in place of the one before."""
    entries = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    entries[name] = {**described_run(), **numbers}
    MEASURED.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")


def interop_sha256() -> str:
    """As of `find interop -type f ... -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum`."""
    return sources_sha256((ROOT / "interop").rglob("*"))


def sources_sha256(paths: Iterable[Path]) -> str:
    """The same, of those among *paths* that are sources."""
    names = sorted(str(path.relative_to(ROOT)) for path in paths if path.suffix in (".py", ".c", ".h"))
    lines = [f"{hashlib.sha256((ROOT / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def described_run() -> dict[str, object]:
    """When, where, and with what; nothing without a GPU."""
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
