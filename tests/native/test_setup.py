"""setup.py builds the extension, and writes down why it could not. The tests build small C files with a copy of it."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
GOOD = """
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
PyMODINIT_FUNC PyInit__ext(void) { return PyModule_New("interop._native._ext"); }
"""
WRONG = "#error the header of this Python lacks something\n"

pytestmark = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="the extension is not built for free-threaded Python"
)


@pytest.fixture
def project(tmp_path):
    pytest.importorskip("setuptools")
    shutil.copy(REPOSITORY / "setup.py", tmp_path)
    (tmp_path / "interop" / "_native").mkdir(parents=True)
    (tmp_path / "interop" / "__init__.py").write_text("")
    shutil.copy(REPOSITORY / "interop" / "_native" / "__init__.py", tmp_path / "interop" / "_native")
    (tmp_path / "interop" / "_native" / "plain.py").write_text("EventFields = Pool = StreamFields = None")
    return tmp_path


def build(project, code, *options, **variables):
    (project / "interop" / "_native" / "ext.c").write_text(code)
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", *options],
        cwd=project,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr  # interop works without it
    return done


def why_not(folder):
    code = "import json; from interop import _native; print(json.dumps(_native.why_not))"
    environment = {**os.environ, "INTEROP_NATIVE": "", "PYTHONPATH": ""}
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr


@pytest.mark.parametrize(
    ("code", "variables", "said"),
    [
        (WRONG, {}, "error: #error the header of this Python lacks something"),
        (GOOD, {"CC": "no-such-compiler"}, "no-such-compiler"),
        (GOOD, {"CC": "false"}, "false"),
    ],
)
@pytest.mark.parametrize("in_place", [True, False])
def test_the_error_of_the_compiler_is_kept(code, variables, said, in_place, project):
    options = ["--inplace"] if in_place else ["--build-lib", "out"]
    done = build(project, code, *options, **variables)
    assert said in done.stderr
    if not in_place:
        for module in project.glob("interop/**/*.py"):
            shutil.copy(module, project / "out" / module.relative_to(project))
    folder = project if in_place else project / "out"
    note = folder / "interop" / "_native" / "_ext.txt"
    why = why_not(folder)
    assert why.startswith("it was not built: ")
    assert said in why
    assert why.endswith(f"(all that was said: {note}). Mend that, then install interop again")
    assert said in note.read_text()


def test_a_successful_build_removes_the_error(project):
    build(project, WRONG, "--inplace")
    assert (project / "interop" / "_native" / "_ext.txt").exists()
    build(project, GOOD, "--inplace")
    assert not (project / "interop" / "_native" / "_ext.txt").exists()
    assert list((project / "interop" / "_native").glob("_ext.abi3*.so"))


def test_an_editable_install_is_a_path_which_type_checkers_follow(tmp_path):
    """By default, it is a finder that imports the package at run time: mypy and pyright do not see the package then."""
    pytest.importorskip("setuptools")
    shutil.copytree(REPOSITORY / "interop", tmp_path / "interop", ignore=shutil.ignore_patterns("*.c", "*.h", "*.so"))
    for file in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(REPOSITORY / file, tmp_path)
    code = "import setuptools.build_meta as build; build.build_editable('.')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        (path,) = [name for name in files.namelist() if "/" not in name]
        assert files.read(path).decode().strip() == str(tmp_path)
