"""``python -m interop demo``, the command that a new user runs first."""

import re
import subprocess
import sys


def run(*options):
    return subprocess.run(
        [sys.executable, "-m", "interop", "demo", *options], capture_output=True, text=True, timeout=100
    )


def test_the_demo_succeeds():
    result = run()
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("backend: NVIDIA")
    assert "SIMULATED" not in result.stdout
    assert re.search(r"CuPy \d+\.\d+.*Numba \d+\.\d+.*PyTorch \d+\.\d+", result.stdout)
    assert result.stdout.count("right") >= 3
    assert "ordered" in result.stdout
    assert "WRONG" not in result.stdout


def test_without_the_wait_the_demo_shows_the_wrong_result():
    result = run("--forget-wait")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "WRONG: y[0] = 1.0" in result.stdout
    assert "NOT ORDERED" in result.stdout
