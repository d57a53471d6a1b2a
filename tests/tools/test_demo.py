"""The command that a new user runs first, on a machine without a GPU."""

import subprocess
import sys

import pytest

import interop

pytestmark = pytest.mark.needs("no_gpu")


def run(*options, code="import sys; from interop.__main__ import main; sys.exit(main(sys.argv[1:]))"):
    return subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, timeout=60)


def test_the_demo_says_first_that_it_is_simulated_and_why():
    result = run("demo")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("backend: SIMULATED (no CUDA device can be used here: cudaError")
    assert result.stdout.count("right") >= 3
    assert "ordered" in result.stdout
    assert "WRONG" not in result.stdout
    assert "interop.as_stream(numba_stream).wait_stream(cupy_stream)" in result.stdout
    assert result.stdout.endswith("\nNext: python -m interop demo --forget-wait, without the wait\n")


def test_without_the_wait_it_shows_the_race_and_a_schedule_that_goes_wrong():
    result = run("demo", "--forget-wait")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("backend: SIMULATED")
    assert "WRONG: y[0] = 1.0" in result.stdout
    assert "NOT ORDERED" in result.stdout
    assert "race on x: nothing orders" in result.stdout
    assert "Order them: interop.as_stream(numba_stream).wait_stream(cupy_stream)" in result.stdout
    assert "this one goes wrong:\n  1. kernel 'Numba square' ran" in result.stdout
    assert result.stdout.count("the host reads y") == 1
    assert result.stdout.splitlines()[-1].startswith("Next: python -m interop doctor, ")


@pytest.mark.parametrize("width", [60, 80])
def test_the_output_of_the_demo_is_not_cut(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = run("demo", "--forget-wait").stdout.splitlines()
    assert "CuPy writes x = 0, 1, 2, ...; Numba writes y = x * x; PyTorch sums y" in lines
    table = lines[lines.index("") + 1 : lines.index("", lines.index("") + 1)]
    assert len(table) >= 7
    assert max(map(len, table)) <= width
    for seen in ("WRONG: y[0] = 1.0", "NOT ORDERED"):
        assert any(seen in line for line in table)
    assert "…" not in "".join(table)


def test_a_missing_package_is_named():
    code = "import sys; sys.modules['numpy'] = None; from interop.__main__ import main; sys.exit(main(['demo']))"
    result = run(code=code)
    assert result.returncode == 2
    assert result.stderr == "This needs numpy: pip install numpy\n"


def test_a_command_that_does_not_exist():
    result = run("dmeo")
    assert result.returncode == 2
    assert "usage: python -m interop" in result.stderr


def test_without_a_command_the_help_is_printed():
    result = run()
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("usage: python -m interop")
    assert all(f"\n    {command} " in result.stdout for command in ("demo", "matrix", "doctor"))


def test_the_version():
    assert run("--version").stdout == f"interop {interop.__version__}\n"


def test_the_matrix_says_what_it_needs():
    result = run("matrix", "--only", "cupy")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "the matrix needs a GPU" in result.stderr
