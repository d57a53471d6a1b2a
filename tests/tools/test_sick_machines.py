"""The doctor on machines that are sick: it survives, and says what is sick."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import interop
from interop import adapters
from interop.adapters.table import BINDINGS_VARIABLE, CUPY_VARIABLE
from interop.diagnosis import SCHEMA, libraries, machine, packages
from interop.diagnosis.advice import Facts, advise
from interop.diagnosis.attempt import attempt

REPOSITORY = Path(interop.__file__).parents[1]


def doctor(*options, path=(), site=True, **variables):
    """Run the command with folders in front of the path; its findings. Without *site*, no package is installed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), str(REPOSITORY)]), **variables}
    flags = [] if site else ["-S"]
    done = subprocess.run(
        [sys.executable, *flags, "-m", "interop", "doctor", "--json", *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    assert done.returncode == (1 if warnings(found) else 0)
    return found


def warnings(found):
    return [f"{advice['about']}: {advice['what']}" for advice in found["advice"] if advice["kind"] == "warning"]


def named(found, name):
    return next(library for library in found["libraries"] if library["name"] == name)


def broken(found, place):
    return [what for what in warnings(found) if "metadata of a package cannot be read" in what and place in what]


@pytest.fixture(scope="module")
def healthy():
    """What is found where nothing is sick."""
    return doctor()


# -- packages --------------------------------------------------------------------------------------------------------

METADATA = b"Metadata-Version: 2.1\nName: sick\nVersion: 1\n"
METADATA_KINDS = {
    "no METADATA": ({}, "METADATA is missing|MetadataNotFound"),  # from Python 3.15 on
    "an empty METADATA": ({"METADATA": b""}, "METADATA is missing|MetadataNotFound"),
    "METADATA that is no text": ({"METADATA": METADATA + b"Summary: \xff\xfe\n"}, "UnicodeDecodeError"),
    "no version": ({"METADATA": b"Metadata-Version: 2.1\nName: sick\n"}, "no version"),
    "no name": ({"METADATA": b"Metadata-Version: 2.1\nVersion: 1\n"}, "no name"),
    "a list of files that is no text": ({"METADATA": METADATA, "RECORD": b"sick.py,\xff,\n"}, "UnicodeDecodeError"),
    "a list of files with a wrong size": ({"METADATA": METADATA, "RECORD": b"sick.py,sha256=0,x\n"}, "ValueError"),
    "a list of modules that is no text": ({"METADATA": METADATA, "top_level.txt": b"\xff\xfe"}, "UnicodeDecodeError"),
    "entry points without a value": ({"METADATA": METADATA, "entry_points.txt": b"[a]\nwords\n"}, "TypeError"),
    "entry points that are no text": ({"METADATA": METADATA, "entry_points.txt": b"[\xff]\n"}, "UnicodeDecodeError"),
    "a folder for METADATA": ({"METADATA/x": b""}, ""),
}


def install(folder, name, files):
    """Put the metadata of a package there."""
    place = folder / f"{name}-1.0.dist-info"
    place.mkdir()
    for file, content in files.items():
        (place / file).parent.mkdir(exist_ok=True)
        (place / file).write_bytes(content)
    return place


@pytest.mark.needs("no_gpu")
@pytest.mark.parametrize("kind", METADATA_KINDS)
def test_broken_metadata_of_a_package(kind, healthy, tmp_path):
    files, why = METADATA_KINDS[kind]
    place = install(tmp_path, "sick", files)
    found = doctor(path=[tmp_path])
    (what,) = broken(found, str(place))
    assert re.search(why, what)
    assert found["libraries"] == healthy["libraries"]


@pytest.mark.needs("no_gpu")
@pytest.mark.parametrize("name", ["numpy", "cuda_bindings", "torch"])
def test_broken_metadata_of_a_package_that_the_doctor_asks_for(name, tmp_path):
    place = install(tmp_path, name, {"METADATA": b"Name: \xff\n"})
    assert broken(doctor(path=[tmp_path]), str(place))


def test_a_broken_package_hides_no_adapter_of_another_one(tmp_path, python):
    install(tmp_path, "sick", {"METADATA": METADATA, "entry_points.txt": b"[a]\nwords\n"})
    points = b"[interop.adapters]\nmylib = mylib:Adapter\n"
    for copy in ("first", "second"):  # the same package twice on the path is one package
        (tmp_path / copy).mkdir()
        install(tmp_path / copy, "mylib", {"METADATA": b"Name: mylib\nVersion: 1\n", "entry_points.txt": points})
    code = f"""
import json, sys, warnings
sys.path[:0] = {[str(tmp_path), str(tmp_path / "first"), str(tmp_path / "second")]!r}
from interop import adapters
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    known = adapters.known()
print(json.dumps(["mylib" in known, adapters.origin("mylib"), [str(warning.message) for warning in told]]))
"""
    known, origin, (told,) = python(code)
    assert known
    assert origin == "mylib:Adapter (mylib 1)"
    assert "its adapters are left out" in told
    assert "sick-1.0.dist-info" in told


def test_a_library_that_no_package_has_installed():
    facts = libraries.Library("cupy", {}, loaded=False, adapter="interop.adapters.cupy", null="legacy", default=None)
    (note,) = (found for found in advise(Facts(machine.look("1", None), [facts])) if found.about == "cupy")
    assert (note.kind, note.about) == ("note", "cupy")
    assert "no installed package" in note.what


# -- CUDA's bindings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--probe",)])
def test_without_cuda_python(options):
    found = doctor(*options, site=False)
    assert found["machine"]["bindings"] is None
    assert found["machine"]["bindings_failure"] == "ModuleNotFoundError: No module named 'cuda'"
    assert any(what.startswith("cuda-python: ") for what in warnings(found))
    assert not any(what.startswith("GPU: ") for what in warnings(found))


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("raise OSError('libcudart.so')", "OSError: libcudart.so"),
        ("", "'cuda' is not a package"),
        ("raise SystemExit('no licence')", "SystemExit: no licence"),
    ],
)
def test_another_module_called_cuda(code, failure, tmp_path):
    (tmp_path / "cuda.py").write_text(code)
    found = doctor(path=[tmp_path])
    assert failure in found["machine"]["bindings_failure"]
    assert any(failure in what for what in warnings(found))


@pytest.mark.needs("no_gpu")
@pytest.mark.parametrize("value", ["yes", "", "1.0"])
@pytest.mark.parametrize("variable", [BINDINGS_VARIABLE, CUPY_VARIABLE])
def test_a_variable_that_is_not_a_number(variable, value):
    found = doctor(**{variable: value})
    (what,) = [what for what in warnings(found) if what.startswith(f"{variable}: ")]
    assert f"set to {value!r}, which is not a number" in what
    assert not any(what.startswith("cuda-python: ") for what in warnings(found))


@pytest.mark.needs("no_gpu")
@pytest.mark.parametrize("value", ["0", " 1 ", "-1"])
def test_a_variable_that_is_a_number(value):
    found = doctor(**{BINDINGS_VARIABLE: value, CUPY_VARIABLE: value})
    assert not any("not a number" in what for what in warnings(found))
    assert named(found, "cuda.core")["null"] == ("legacy" if value == "0" else "per-thread")


# -- libraries -------------------------------------------------------------------------------------------------------

LIBRARY_KINDS = {
    "it calls sys.exit": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "it calls sys.exit with words": ("raise SystemExit('no licence')", "SystemExit: no licence"),
    "it raises what is no Exception": (
        "class Panic(BaseException): pass\nraise Panic('at lib.rs')",
        "Panic: at lib.rs",
    ),
    "it ends the process": ("import os; os._exit(5)", "it ends the process, 5"),
    "it ends the process, and says that all is well": ("import os; os._exit(0)", "it ends the process, 0"),
    "it crashes": ("import ctypes; ctypes.string_at(1)", "it kills the process, by SIGSEGV"),
    "it aborts": ("import os; os.abort()", "it kills the process, by SIGABRT"),
    "it is not for this processor": ("import os; os.kill(os.getpid(), 4)", "it kills the process, by SIGILL"),
    "it is half installed": ("import cupy_backends_that_are_not_there", "ModuleNotFoundError"),
    "its shared library is missing": ("raise OSError('libcupy.so: cannot open')", "OSError: libcupy.so: cannot open"),
}


@pytest.mark.parametrize("kind", LIBRARY_KINDS)
def test_a_library_that_cannot_be_imported(kind, tmp_path):
    code, failure = LIBRARY_KINDS[kind]
    (tmp_path / "rmm.py").write_text(code)
    (tmp_path / "warp.py").write_text("")
    plain, probed = (doctor(*options, path=[tmp_path], site=False) for options in ((), ("--probe",)))
    assert named(plain, "rmm")["failure"] == ""
    found = named(probed, "rmm")
    assert not found["loaded"]
    assert found["failure"].startswith("cannot be imported: ")
    assert failure in found["failure"]
    assert any("rmm: cannot be imported" in what for what in warnings(probed))
    assert named(plain, "warp")["remark"] == "not loaded"
    assert named(probed, "warp")["loaded"]


def test_a_library_whose_import_hangs(tmp_path, monkeypatch):
    (tmp_path / "rmm.py").write_text("import threading; threading.Event().wait()")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(libraries, "_LONGEST_IMPORT", 1)
    assert libraries._end_of_the_importer("rmm") == "the import has not ended after 1 s"


def test_ctrl_c_ends_the_diagnosis():
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(fail, None)


# -- what it prints --------------------------------------------------------------------------------------------------

NOISE = """
import atexit, ctypes, os, sys
os.write(1, b"noise: written\\n")
c = ctypes.CDLL(None)
c.printf(b"noise: buffered in C\\n")
print("noise: printed")
sys.__stdout__.write("noise: to the first standard output\\n")
os.system("echo noise: of another process")
atexit.register(print, "noise: at the end")
"""


@pytest.mark.parametrize("options", [["--json"], []])
def test_only_the_diagnosis_is_in_the_output(options, tmp_path):
    (tmp_path / "rmm.py").write_text(NOISE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])}
    others = [name for name in adapters.known() if name != "rmm"]
    code = f"import sys; sys.modules.update(dict.fromkeys({others!r})); from interop.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor", "--probe", *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "noise" not in done.stdout
    assert done.stderr.count("noise: ") == NOISE.count("noise: ")
    assert "rmm" in done.stdout


@pytest.mark.needs("no_gpu")
def test_what_the_output_cannot_write_is_escaped():
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "ascii", "INTEROP_CHECK": "0"}
    environment["CUDA_VISIBLE_DEVICES"] = "\udcff"  # one byte that is no text
    done = subprocess.run(
        [sys.executable, "-m", "interop", "doctor"], env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1, done.stderr
    assert "\\udcff" in done.stdout


def test_the_data_contains_its_schema(monkeypatch):
    found = interop.doctor().to_dict()
    assert found["schema"] == SCHEMA == 1
    assert list(found) == ["schema", "machine", "libraries", "pools", "advice"]


# -- the rest --------------------------------------------------------------------------------------------------------


def test_a_driver_whose_version_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_DRIVER", tmp_path)  # a folder
    assert interop.doctor().machine.driver is None


def test_packages_are_read_once_and_the_first_on_the_path_counts(tmp_path, monkeypatch):
    for folder, version in (("a", "2"), ("b", "1")):
        (tmp_path / folder).mkdir()
        files = {"METADATA": f"Name: My_Lib\nVersion: {version}\n".encode(), "top_level.txt": b"mylib\n"}
        install(tmp_path / folder, "My_Lib", files)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "a"), str(tmp_path / "b")])
    found = packages.look()
    assert (found.versions, found.modules, found.broken) == ({"my-lib": "2"}, {"mylib": ["my-lib"]}, {})
