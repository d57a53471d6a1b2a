"""The lines of docs/with.md put the work of a library on the stream that they name; on another stream, they do not.

Each library runs in a process of its own. One that is not installed, or cannot be made ready there, is skipped.
"""

import json
import subprocess
import sys

import pytest

from tests import with_page
from tests.gpu.lab import STALE, WRITTEN
from tests.gpu.record import described_run


@pytest.mark.parametrize("name", with_page.ON_A_GPU)
def test_a_line_is_on_its_stream_and_its_control_is_not(name):
    command = [sys.executable, "-W", "ignore", "-m", "tests.gpu.with_lines", name]
    done = subprocess.run(command, cwd=with_page.ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    (found,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if "cannot" in found:
        pytest.skip(f"{name}: {found['cannot']}")
    with_page.record("gpu", name, None)
    assert (found["line"], found["control"]) == ([WRITTEN], [STALE])
    run = {key: value for key, value in described_run().items() if key in ("date", "driver", "gpu")}
    with_page.record("gpu", name, {**run, "version": found["version"]})
