"""``@pytest.mark.needs`` skips; where ``--interop-require`` says that it must be there, it fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.mark.needs("gpu2")
def test_two_devices(): pass

@pytest.mark.needs("no_gpu", "cuda.bindings")
def test_none(): pass
"""


@pytest.mark.parametrize(
    ("required", "status", "text"),
    [
        ("", 0, "1 passed, 1 skipped"),
        ("numpy,gpu2", 1, "--interop-require=gpu2, but there are 0 CUDA devices"),
        ("cuppy", 4, "--interop-require: unknown cuppy; known: acme_streams, cuda.core, cupy,"),
    ],
)
def test_option(required, status, text, tmp_path):
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_two.py").write_text(TESTS)
    done = subprocess.run(
        [
            *[sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--strict-markers"],
            *[f"--rootdir={tmp_path}", f"--interop-require={required}", tmp_path],
        ],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert text in done.stdout + done.stderr
    assert done.returncode == status
