"""The record of a run, and a watchdog: a gate that nobody opens must not hang the machine."""

import datetime as dt
import faulthandler
import hashlib
import importlib.metadata
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).with_name("last_run.json")
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


@pytest.fixture(autouse=True)
def _gpu(need):
    need("gpu")


@pytest.fixture(autouse=True)
def watchdog():
    """Ends the process if a test hangs; a test that takes longer calls it with its seconds."""

    def within(seconds):
        faulthandler.dump_traceback_later(seconds, exit=True)

    within(110)
    yield within
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session", autouse=True)
def _memory():
    """Allocated before anything is captured, or held up by a gate."""
    from tests.gpu.lab import Cell, device_count

    for device in range(device_count()):
        Cell(device, 0)


@pytest.fixture(autouse=True)
def _same_device(_gpu):
    """Nothing may leave another device current than it found."""
    from tests.gpu.lab import call, runtime

    before = call(runtime.cudaGetDevice())
    yield
    assert call(runtime.cudaGetDevice()) == before
    call(runtime.cudaDeviceSynchronize())


def interop_sha256() -> str:
    """As of `find interop -type f ... -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum`."""
    paths = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "interop").rglob("*") if p.suffix in (".py", ".c"))
    lines = [f"{hashlib.sha256((ROOT / path).read_bytes()).hexdigest()}  {path}\n" for path in paths]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def pytest_sessionfinish(session, exitstatus):
    """Write the record, after a run of the whole suite on a GPU."""
    config = session.config
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    whole = (
        not config.getoption("keyword")
        and not config.getoption("markexpr")
        and not config.getoption("lf", default=False)
    )
    here = str(Path(__file__).parent)
    if not whole or [str((config.invocation_params.dir / arg).resolve()) for arg in config.args] != [here]:
        return
    machine = described_run()
    if not machine:
        return
    count_of = {kind: len(reporter.stats.get(kind, [])) for kind in ("passed", "failed", "skipped", "error")}
    record = {
        **machine,
        "required": config.getoption("interop_require"),
        "passed": count_of["passed"],
        "failed": count_of["failed"] + count_of["error"],
        "skipped": count_of["skipped"],
        "exit_status": int(exitstatus),
        "interop_sha256": interop_sha256(),
    }
    RECORD.write_text(json.dumps(record, indent=2) + "\n")


def described_run():
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


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver():
    path = Path("/proc/driver/nvidia/version")
    found = re.search(r"\d+\.\d[\d.]*", path.read_text()) if path.exists() else None
    return found[0] if found else None
