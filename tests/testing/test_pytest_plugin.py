"""interop's fixtures and marks for pytest, in a pytest of their own without a GPU; test_needs.py has the rest."""

import re

import pytest


def counts(done):
    """What the last line says, such as ``{"passed": 2}``."""
    last = done.stdout.strip().splitlines()[-1]
    return {word.rstrip("s") if word != "passed" else word: int(number) for number, word in _pairs(last)}


def _pairs(line):
    words = line.partition(" in ")[0].replace(",", "").split()
    return zip(words[::2], words[1::2], strict=True)


def test_streams_of_a_simulation(tmp_path, run_tests):
    code = """
def test_one(interop_simulated_gpu, interop_stream):
    assert "SIMULATED" in repr(interop_stream)

def test_two(interop_simulated_gpu, interop_stream_pair):
    producer, consumer = interop_stream_pair
    assert producer != consumer

def test_none_without(interop_stream): pass
def test_nor_two(interop_stream_pair): pass
"""
    assert counts(run_tests(tmp_path, code)) == {"passed": 2, "skipped": 2}


OPENED = """
import pytest

@pytest.fixture
def afterwards(interop_simulated_gpu):
    seen = []
    yield seen
    assert seen[0].is_open

def test_opened(afterwards, interop_stream, interop_gate):
    afterwards.append(interop_gate(interop_stream))
    assert not interop_stream.query()
"""


def test_gates_are_opened_at_the_end(tmp_path, run_tests):
    assert counts(run_tests(tmp_path, OPENED)) == {"passed": 1}


HELD = """
import time
import pytest
from interop import ExternalStream, _cuda
from interop._core import captures
from interop.testing import device

@pytest.fixture
def held(monkeypatch):  # a stream whose waits nobody carries out
    cuda = _cuda.Cuda(lambda: 1 / 0, lambda _: True)
    stream = ExternalStream.__new__(ExternalStream)
    for name, value in dict(_handle=64, _device=0, _context=1, _context_id=1, _id=1, _cuda=cuda).items():
        setattr(stream, name, value)
    monkeypatch.setattr(ExternalStream, "_usable_context", lambda _: 1)
    monkeypatch.setattr(captures, "capture_of", lambda _: 0)
    monkeypatch.setattr(device, "stream_wait_value", lambda *_: None)
    monkeypatch.setattr(device, "host_register", lambda *_: 0)
    return stream

def wait(shut):
    while not shut.is_open:
        time.sleep(0.001)

def test_late(held, interop_gate):
    wait(interop_gate(held, timeout=0.05))

def test_told_already(held, interop_gate):
    shut = interop_gate(held, timeout=0.05)
    wait(shut)
    with pytest.raises(AssertionError):
        shut.open()

def test_in_time(held, interop_gate):
    interop_gate(held).open()
"""


def test_a_gate_that_had_to_open_itself_fails_the_test(tmp_path, run_tests):
    done = run_tests(tmp_path, HELD)
    assert counts(done) == {"passed": 3, "error": 1}
    assert "ERROR test_it.py::test_late - Failed: <interop.testing.Gate" in done.stdout
    assert "had to open itself: nobody did within 0.05 s" in done.stdout


def test_a_gate_that_is_kept_and_forgotten_fails_the_test_that_finds_it_open(tmp_path, run_tests):
    code = """
from interop import testing

kept = []

def test_keeps_it(held):
    kept.append(testing.gate(held, timeout=0.05))

def test_finds_it():
    wait(kept[0])

def test_later(): pass
"""
    done = run_tests(tmp_path, HELD + code, "-k", "keeps or finds or later")
    assert counts(done) == {"passed": 3, "error": 1, "deselected": 3}
    assert "ERROR test_it.py::test_finds_it - Failed: <interop.testing.Gate" in done.stdout


def test_gates_of_a_simulation_that_had_to_open_themselves(tmp_path, run_tests):
    code = """
from interop import testing

kept = []

def test_late(interop_simulated_gpu, interop_stream, interop_gate):
    interop_gate(interop_stream, timeout=0.05)
    while not interop_stream.query():
        pass

def test_keeps_it(interop_simulated_gpu, interop_stream):
    kept.append(testing.gate(interop_stream, timeout=0.05))
    while not interop_stream.query():
        pass

def test_in_time(interop_simulated_gpu, interop_stream, interop_gate):
    interop_gate(interop_stream)
"""
    done = run_tests(tmp_path, code)
    assert counts(done) == {"passed": 3, "error": 2}
    for name in ("late", "keeps_it"):
        assert f"ERROR test_it.py::test_{name} - Failed: <interop.testing.Gate" in done.stdout


def test_a_library_is_no_fixture_to_be_fetched(tmp_path, run_tests):
    code = """
import pytest

@pytest.mark.parametrize("name", ["interop_library", "interop_library_pair"])
def test_it(request, name, interop_simulated_gpu):
    with pytest.raises(pytest.UsageError, match=f"{name} has a parameter for each library"):
        request.getfixturevalue(name)
"""
    assert counts(run_tests(tmp_path, code)) == {"passed": 2}


LIBRARIES = """
import sys, types
import interop
from tests.core.test_current import StandIn

for name in ("alpha", "beta"):
    module = types.ModuleType(name)
    module.__spec__ = types.SimpleNamespace(_initializing=False)
    sys.modules[name] = module
    interop.register(name, StandIn(name, []))

"""


def test_each_library_and_each_pair(tmp_path, run_tests):
    code = """
def test_one(interop_simulated_gpu, interop_library):
    assert interop_library.name in ("alpha", "beta")
    assert type(interop_library.stream()).__module__ == interop_library.name

def test_two(interop_simulated_gpu, interop_library_pair):
    producer, consumer = interop_library_pair
"""
    done = run_tests(tmp_path, LIBRARIES + code, "-vv", "-k", "alpha and not acme or beta-beta or one and beta")
    for name in (
        "test_one[alpha]",
        "test_one[beta]",
        "test_two[alpha-alpha]",
        "test_two[beta-alpha]",
        "test_two[beta-beta]",
    ):
        assert f"{name} PASSED" in done.stdout


def test_a_test_says_itself_which_libraries(tmp_path, run_tests):
    code = """
import pytest

@pytest.mark.parametrize("interop_library", ["beta"], indirect=True)
def test_one(interop_simulated_gpu, interop_library):
    assert interop_library.name == "beta"

@pytest.mark.parametrize("number, interop_library_pair", [(1, ("beta", "alpha"))], indirect=["interop_library_pair"])
def test_two(interop_simulated_gpu, interop_library_pair, number):
    assert [library.name for library in interop_library_pair] == ["beta", "alpha"]

@pytest.mark.parametrize(("interop_library", "number"), [("its own", 1)])
def test_own(interop_library, number):
    assert interop_library == "its own"
"""
    assert counts(run_tests(tmp_path, LIBRARIES + code)) == {"passed": 3}


def test_libraries_that_cannot_use_a_simulation_are_skipped(tmp_path, run_tests):
    code = """
def test_one(interop_simulated_gpu, interop_library):
    interop_library.stream()

def test_two(interop_simulated_gpu, interop_library_pair):
    for library in interop_library_pair:
        library.stream()
"""
    done = run_tests(tmp_path, LIBRARIES + code, "-rs", "-k", "[alpha or cuda.core or alpha-cuda.core]")
    assert counts(done)["passed"] >= 1
    assert "failed" not in counts(done)
    assert "cuda.core cannot use the streams of a simulation" in done.stdout


def test_the_simulation_begins_first_whatever_the_order_of_the_arguments(tmp_path, run_tests):
    asked = ["interop_stream", "interop_stream_pair", "interop_library", "interop_gate", "own"]
    tests = [
        f"def test_{name}_{place}({arguments}): pass"
        for name in asked
        for place, arguments in [
            ("first", f"{name}, interop_simulated_gpu"),
            ("last", f"interop_simulated_gpu, {name}"),
        ]
    ]
    code = """
import pytest
from interop import new_stream

@pytest.fixture
def own(interop_stream, interop_gate):
    yield
    assert "SIMULATED" in repr(interop_stream)

def test_gate(interop_gate, interop_simulated_gpu):
    interop_gate(new_stream())  # opened while the simulation lasts
"""
    hidden = "not (bindings or core or cupy or numba or rmm or torch or tvm or dali or jax or warp or acme or beta)"
    done = run_tests(tmp_path, "\n".join([LIBRARIES, code, *tests]), "-k", hidden)
    assert counts(done) == {"passed": 2 * len(asked) + 1, "deselected": counts(done)["deselected"]}


def test_only_libraries_that_are_there_or_required(tmp_path, run_tests):
    code = "def test_it(interop_library): pass"
    hide = "import sys; sys.modules.update(cupy=None, warp=None)\n"
    shown = run_tests(tmp_path, hide + code, "--collect-only").stdout
    assert "[cupy]" not in shown
    assert "[jax]" not in shown
    assert "[cuda.core]" in shown
    required = run_tests(tmp_path, hide + code, "--interop-require=cupy")
    assert counts(required)["error"] == 1
    assert "--interop-require=cupy, but cupy is not installed" in required.stdout


def test_a_library_needs_a_gpu(tmp_path, run_tests):
    done = run_tests(tmp_path, "def test_it(interop_library): pass", "-k", "cuda.core")
    assert counts(done)["skipped"] == 1
    done = run_tests(tmp_path, "def test_it(interop_library): pass", "-k", "cuda.core", "--interop-require=gpu")
    assert counts(done)["error"] == 1


@pytest.mark.parametrize("last", ["other_plugin", "interop.pytest_plugin"])
def test_another_plugins_fixtures_are_found_by_their_own_names(last, tmp_path, run_tests):
    names = ["need", "stream", "stream_pair", "library", "library_pair", "gate", "simulated_gpu", "gpu_lock"]
    fixtures = [f"@pytest.fixture\ndef {name}(): return 'the other plugin has {name}'\n" for name in names]
    (tmp_path / "other_plugin.py").write_text("\n".join(["import pytest", *fixtures]))
    tests = [f"def test_{name}({name}): assert {name} == 'the other plugin has {name}'\n" for name in names]
    code = "\n".join([*tests, "def test_ours(interop_simulated_gpu, interop_stream): interop_stream.synchronize()"])
    plugins = ["-p", "other_plugin"] + (["-p", last] if last != "other_plugin" else [])
    assert counts(run_tests(tmp_path, code, *plugins, "-p", "no:xdist")) == {"passed": 9}


def test_every_fixture_has_the_prefix():
    from interop import pytest_plugin

    fixtures = [name for name, value in vars(pytest_plugin).items() if "fixture" in type(value).__name__.lower()]
    assert len(fixtures) == 8
    assert {name.partition("_")[0] for name in fixtures} == {"interop"}


REGISTERED = """
def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: one of ours")
    config.addinivalue_line("markers", "needs(what): another one")
"""
MARKED = """
import pytest

@pytest.mark.gpu
def test_gpu(): pass

@pytest.mark.needs("anything")
def test_needs(): pass
"""


@pytest.mark.parametrize("folder", [".", "sub", "sub/sub"])
@pytest.mark.parametrize(("conftest", "expected"), [(REGISTERED, {"passed": 2}), ("", {"skipped": 2})])
def test_marks_that_a_conftest_registers_are_the_projects(folder, conftest, expected, tmp_path, run_tests):
    inner = tmp_path / folder
    inner.mkdir(parents=True, exist_ok=True)
    (inner / "conftest.py").write_text(conftest)
    (inner / "test_inner.py").write_text(MARKED)
    assert counts(run_tests(tmp_path, "", ".", "--ignore=test_it.py")) == expected


def test_a_mark_that_is_wrong_says_so(tmp_path, run_tests):
    wrong = ["gpu('two')", "gpu(0)", "gpu(True)", "gpu(1, 2)", "gpu(count=2)", "gpu(1, n=2, m=3)"]
    code = [f"@pytest.mark.{mark}\ndef test_{number}(): pass" for number, mark in enumerate(wrong)]
    done = run_tests(tmp_path, "\n".join(["import pytest", *code]))
    assert counts(done) == {"error": len(wrong)}
    assert done.stdout.count("takes how many devices the test needs, 1 or more; got gpu(") >= len(wrong)
    assert "got gpu(1, n=2, m=3)" in done.stdout


@pytest.mark.parametrize("given", ["['cupy']", "''", "'cupy', 3", "'.bad'", "'numpy..bad'", "'torch,cupy'", ""])
def test_what_is_needed_has_names(tmp_path, run_tests, given):
    code = f"import pytest\n@pytest.mark.needs({given})\ndef test_it(): pass\n"
    code += f"def test_need(interop_need): interop_need({given})"
    done = run_tests(tmp_path, code)
    assert done.stdout.count('by strings, import paths such as needs("cupy", "torch"); got needs(') >= 2
    assert "INTERNALERROR" not in done.stdout
    assert done.returncode


def test_a_mark_that_names_nothing_says_so(tmp_path, run_tests):
    wrong = ["needs", "needs()", "needs(library='cupy')", "needs('cupy', library='cupy')"]
    code = [f"@pytest.mark.{mark}\ndef test_{number}(): pass" for number, mark in enumerate(wrong)]
    done = run_tests(tmp_path, "\n".join(["import pytest", *code]))
    assert counts(done) == {"error": len(wrong)}
    assert done.stdout.count("what a test needs is named by strings") >= len(wrong)


MISSPELT = {"cuppy": "cupy", "troch": "torch", "CuPy": "cupy", "gpu0": "gpu", "no-gpu": "no_gpu", "cupy ": "cupy"}


def test_a_name_that_is_nearly_known_is_refused(tmp_path, run_tests):
    code = f"""
import pytest

@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.needs("gpu", name)) for name in {list(MISSPELT)}
])
def test_mark(name): pass

@pytest.mark.parametrize("name", {list(MISSPELT)})
def test_function(interop_need, name):
    interop_need(name)
"""
    done = run_tests(tmp_path, code)
    assert counts(done) == {"failed": len(MISSPELT), "error": len(MISSPELT)}
    for name, meant in MISSPELT.items():
        said = f"nothing of the name {name!r} is known or installed; did you mean {meant!r}?"
        assert done.stdout.count(said) >= 2


def test_other_names_that_are_missing_are_skipped(tmp_path, run_tests):
    code = """
import pytest

@pytest.mark.parametrize("name", ["scipyy", "warp2", "cuda.compute2"])
def test_it(interop_need, name):
    interop_need(name)
"""
    done = run_tests(tmp_path, code, "-rs")
    assert counts(done) == {"skipped": 3}
    assert "scipyy is not installed, and interop knows no such library" in done.stdout


def test_a_library_that_nobody_knows_is_no_parameter(tmp_path, run_tests):
    code = """
import pytest

@pytest.mark.parametrize("interop_library", ["numpy"], indirect=True)
def test_it(interop_library): pass
"""
    done = run_tests(tmp_path, code)
    assert counts(done) == {"error": 1}
    assert "interop_library is a library that interop knows: acme_streams, cuda.bindings, cuda.core" in done.stdout


def test_a_run_that_uses_nothing_pays_nothing(python):
    code = """
import sys, json
import pytest
heavy = ("cuda", "cupy", "numba", "torch", "numpy", "warp", "interop.testing", "interop.sim")
import contextlib, io, os, pathlib, tempfile
os.chdir(tempfile.mkdtemp())
pathlib.Path("test_it.py").write_text("def test_it(): pass")
with contextlib.redirect_stdout(io.StringIO()) as said:
    status = pytest.main(["-q", "-c", os.devnull, "--rootdir=.", "-p", "no:cacheprovider", "-p", "no:hypothesispytest",
                          "-p", "interop.pytest_plugin"])
loaded = [name for name in heavy if name in sys.modules]
print(json.dumps(["interop.pytest_plugin" in sys.modules, loaded, int(status), "interop" in said.getvalue()]))
"""
    assert python(code) == [True, [], 0, False]


def test_the_plugin_takes_less_than_60_ms_to_start(python, tmp_path):
    code = "import time, pytest; start = time.process_time(); import interop.pytest_plugin; "
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}  # as where it is installed
    # On the processor, and the best of several: what other processes do on this machine only ever adds.
    times = [python(f"{code}print(time.process_time() - start)", **compiled) for _ in range(7)]
    assert min(times) < 0.060, times


# Each of three workers has one of these tests. A file is left at the door, and one inside.
AT_THE_LOCK = """
import time
from pathlib import Path
import pytest

pytestmark = pytest.mark.parametrize("number", range(3))

def come(where, count, seconds):
    until = time.monotonic() + seconds
    while len(list(Path().glob(f"{where}-*"))) < count:
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True

@pytest.fixture
def at_the_door(number):
    Path(f"door-{number}").touch()

@pytest.fixture
def inside(number):
    Path(f"inside-{number}").touch()
    yield
    Path(f"inside-{number}").unlink(missing_ok=True)

"""
ONE_BY_ONE = """
def test_it(at_the_door, interop_gpu_lock, inside):
    assert come("door", 3, seconds=30)  # only the lock keeps the others out
    assert not come("inside", 2, seconds=0.3)
"""
ALL_AT_ONCE = """
def test_it(at_the_door, inside):
    assert come("inside", 3, seconds=30)
    Path(f"seen-{time.monotonic_ns()}").touch()
    assert come("seen", 3, seconds=30)  # nobody leaves before all have seen all
"""


@pytest.mark.parametrize("test", [ONE_BY_ONE, ALL_AT_ONCE], ids=["with the lock", "without it"])
def test_workers_of_xdist_take_turns_where_they_ask_for_the_lock(test, tmp_path, run_tests, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert counts(run_tests(tmp_path, AT_THE_LOCK + test, "-n", "3")) == {"passed": 3}


def test_workers_of_xdist_do_what_one_process_does(tmp_path, run_tests):
    code = """
@pytest.mark.gpu
def test_required(): pass

@pytest.mark.needs("warp2")
def test_missing(): pass

def test_one(interop_simulated_gpu, interop_library): pass

def test_two(interop_simulated_gpu, interop_library_pair): pass
"""
    options = ["-rA", "--interop-require=gpu", "-k", "not (cupy or numba or rmm or torch)"]  # which are slow to import
    done = [run_tests(tmp_path, LIBRARIES + OPENED + HELD + code, *options, *workers) for workers in ([], ["-n", "2"])]
    alone, apart = (
        sorted(line for line in each.stdout.splitlines() if re.match("PASSED|SKIPPED|ERROR|FAILED", line))
        for each in done
    )
    assert alone == apart
    assert {"PASSED test_it.py::test_opened", "PASSED test_it.py::test_two[beta-alpha]"} < set(apart)
    late, required = (line for line in apart if line.startswith("ERROR"))
    assert late.startswith("ERROR test_it.py::test_late - Failed: <interop.testing.Gate")
    assert required.startswith("ERROR test_it.py::test_required - Failed: --interop-require=gpu, but")


def test_a_process_that_dies_lets_go_of_the_lock(tmp_path, run_tests, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code = "import os\ndef test_it(interop_gpu_lock): {}"
    assert run_tests(tmp_path, code.format("os._exit(9)")).returncode == 9
    assert counts(run_tests(tmp_path, code.format("pass"))) == {"passed": 1}


def test_processes_that_a_test_has_forked_do_not_keep_the_lock(tmp_path, run_tests, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code = """
import os
import signal

child = []

def test_forks(interop_gpu_lock):
    child.append(os.fork())
    if not child[0]:
        signal.pause()

def test_next(interop_gpu_lock): pass

def test_end():
    os.kill(child[0], signal.SIGKILL)
    os.waitpid(child[0], 0)
"""
    assert counts(run_tests(tmp_path, code, "-p", "no:xdist", "--timeout=20")) == {"passed": 3}


def test_an_error_of_interop_is_shown_without_the_frames_of_interop(tmp_path, run_tests):
    code = """
def fill(x): ...

def test_race(interop_simulated_gpu):
    gpu = interop_simulated_gpu
    x = gpu.array(0)
    gpu.launch(gpu.stream(), fill, writes=[x])
    gpu.launch(gpu.stream(), fill, writes=[x])
"""
    shown = run_tests(tmp_path, code).stdout
    assert ">       gpu.launch(" in shown
    assert "machine.py" not in shown
    assert "machine.py" in run_tests(tmp_path, code, "--full-trace").stdout


def test_a_race_fails_its_test(tmp_path, run_tests):
    """Outside of a GPU nothing races: a ledger that has found something stands in."""
    code = """
import pytest
from interop._order.findings import Finding, Kind, Party
from interop.ledger.ledger import Ledger

@pytest.fixture(autouse=True)
def found(monkeypatch, request):
    party = Party("kernel 'fill'", "loads", Kind.WRITE, "x", "train.py:5")
    races = [Finding(party, party, "main.wait_stream(loads)")] if "race" in request.node.name else []
    monkeypatch.setattr(Ledger, "races", races)

def test_fine(): pass
def test_race(): pass
def test_fails_and_races(): assert False
"""
    done = run_tests(tmp_path, code, "--interop-check")
    assert counts(done) == {"passed": 1, "failed": 2}
    assert "0 races and 0 unknown" in done.stdout  # what the ledger says
    assert counts(run_tests(tmp_path, code)) == {"passed": 2, "failed": 1}
