"""The record of a run, and a watchdog: a gate that nobody opens must not hang the machine."""

import faulthandler
import json
from pathlib import Path

import pytest

from tests.gpu.record import described_run, interop_sha256

RECORD = Path(__file__).with_name("last_run.json")


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
