"""``@pytest.mark.needs`` and ``gpu`` skip; where ``--interop-require`` says that it must be there, they fail."""

import pytest

TESTS = """
import pytest

@pytest.mark.needs("gpu2")
def test_two_devices(): pass

@pytest.mark.gpu
def test_one(): pass

@pytest.mark.gpu(2)
def test_two(): pass

@pytest.mark.needs("no_gpu", "cuda.bindings")
def test_none(): pass
"""


@pytest.mark.parametrize(
    ("required", "status", "text"),
    [
        ("", 0, "1 passed, 3 skipped"),
        ("numpy", 0, "1 passed, 3 skipped"),
        ("gpu", 1, "1 passed, 2 skipped, 1 error"),
        ("gpu", 1, "--interop-require=gpu, but there are 0 CUDA devices, not 1"),
        ("numpy,gpu2", 1, "1 passed, 3 errors"),
        ("gpu2", 1, "--interop-require=gpu2, but there are 0 CUDA devices, not 2"),
        ("gpu3", 1, "1 passed, 3 errors"),
        ("gpu0", 4, "--interop-require: not known, and not installed: gpu0"),
        (
            "cuppy",
            4,
            "--interop-require: not known, and not installed: cuppy; known: gpu, gpu2, acme_streams, cuda.bindings,",
        ),
    ],
)
def test_option(required, status, text, tmp_path, run_tests):
    done = run_tests(tmp_path, TESTS, f"--interop-require={required}")
    assert text in done.stdout + done.stderr
    assert done.returncode == status
