"""Fixtures of the GPU tests: a watchdog for each test, memory, and the record of a whole run."""

import faulthandler
import json
from pathlib import Path

import pytest

from interop._native import native
from tests.gpu.record import described_run, interop_sha256

RECORD = Path(__file__).with_name("last_run.json")


@pytest.fixture(autouse=True)
def _gpu(interop_need):
    interop_need("gpu")


@pytest.fixture(autouse=True)
def watchdog():
    """Ends the process if a test takes over 110 s. A test that takes longer calls this with its seconds."""

    def within(seconds):
        faulthandler.dump_traceback_later(seconds, exit=True)

    within(110)
    yield within
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session", autouse=True)
def _memory():
    """Allocates the memory of all cells: later, in a capture or behind a gate, no test can."""
    from tests.gpu.lab import Cell, device_count

    for device in range(device_count()):
        Cell(device, 0)


@pytest.fixture(autouse=True)
def _same_device(_gpu):
    """Checks that the test has left the current device as it was."""
    from tests.gpu.lab import call, runtime

    call(runtime.cudaSetDevice(0))  # whichever was left current between two tests
    yield
    assert call(runtime.cudaGetDevice()) == 0
    call(runtime.cudaDeviceSynchronize())


def _was_whole(session, exitstatus):
    """Whether the run was of this whole folder, of nothing else, and came to its end."""
    config = session.config
    named = [(config.invocation_params.dir / argument).resolve() for argument in config.args]
    left_out = any(config.getoption(name, default=None) for name in ("ignore", "ignore_glob", "lf", "collectonly"))
    ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not session.shouldfail
    return named == [Path(__file__).resolve().parent] and ended and not left_out


def pytest_sessionfinish(session, exitstatus):
    """Write the record, after a run of the whole suite on a GPU."""
    config = session.config
    stats = config.pluginmanager.get_plugin("terminalreporter").stats
    if not _was_whole(session, exitstatus) or stats.get("deselected"):
        return
    machine = described_run()
    if not machine:
        return
    count_of = {kind: len(stats.get(kind, [])) for kind in ("passed", "failed", "skipped", "error")}
    record = {
        **machine,
        "extension_in_c": native is not None,
        "required": config.getoption("interop_require"),
        "passed": count_of["passed"],
        "failed": count_of["failed"] + count_of["error"],
        "skipped": count_of["skipped"],
        "exit_status": int(exitstatus),
        "interop_sha256": interop_sha256(),
    }
    RECORD.write_text(json.dumps(record, indent=2) + "\n")
