"""The Makefile's environment, made by a Python that fails half-way, as Debian's does without python3-venv."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"

# `-c CODE` checks the version; `-m venv FOLDER` does what Debian's Python does without, and then with, the package.
PYTHON = """#!/bin/sh
test "$1" = -c && exit 0
mkdir -p "$3/bin"
printf '#!/bin/sh\\necho "No module named pip" >&2; exit 1\\n' > "$3/bin/python"
chmod +x "$3/bin/python"
if test ! -e python3-venv; then
    echo "ensurepip is not available: apt install python3-venv" >&2
    exit 1
fi
for name in python pip ruff; do
    printf '#!/bin/sh\\necho "%s $*" >> done\\n' $name > "$3/bin/$name"
    chmod +x "$3/bin/$name"
done
"""


@pytest.fixture
def checkout(tmp_path):
    if not shutil.which("make"):
        pytest.skip("there is no make")
    shutil.copy(MAKEFILE, tmp_path)
    for file in ("pyproject.toml", "setup.py"):
        (tmp_path / file).write_text("")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def make(checkout, *targets):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "PYTHON=./python", *targets],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_an_environment_that_fails_is_not_left_behind(checkout):
    first = make(checkout, "lint")
    assert first.returncode
    assert "apt install python3-venv" in first.stderr
    assert not (checkout / ".venv").exists()
    (checkout / "python3-venv").touch()
    second = make(checkout, "lint")
    assert second.returncode == 0, second.stderr
    assert (checkout / "done").read_text().splitlines()[-1] == "ruff format --check ."


def test_a_half_made_environment_of_before_is_made_anew(checkout):
    (checkout / "python3-venv").touch()
    (checkout / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(checkout / "python", checkout / ".venv" / "bin" / "python")
    left_over = checkout / ".venv" / "lib"
    left_over.mkdir()
    done = make(checkout, "lint")
    assert done.returncode == 0, done.stderr
    assert not left_over.exists()


def test_an_environment_that_is_whole_is_kept(checkout):
    (checkout / "python3-venv").touch()
    assert make(checkout, "lint").returncode == 0
    (checkout / ".venv" / "lib").mkdir()
    (checkout / "pyproject.toml").touch()  # changed: the package is installed anew, into the same environment
    assert make(checkout, "lint").returncode == 0
    assert (checkout / ".venv" / "lib").exists()
