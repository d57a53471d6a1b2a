"""``interop.doctor()``: what it sees, that it touches nothing, and each thing that it warns of."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
import types
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import interop
from interop import _native, adapters
from interop._core.inspection import StreamFacts
from interop.adapters.base import Adapter
from interop.adapters.table import BINDINGS_VARIABLE, CUPY_VARIABLE, TABLE
from interop.diagnosis import drawing, libraries
from interop.diagnosis.advice import Facts, advise
from interop.diagnosis.libraries import Library
from interop.diagnosis.machine import VARIABLES, Gpu, Machine
from interop.diagnosis.packages import Packages

LIBRARIES = {"cupy", "jax", "numba", "rmm", "torch", "warp"}


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in (*VARIABLES, *(name for name in os.environ if name.startswith("CUDA_MPS_"))):
        if name != "CUDA_VISIBLE_DEVICES":
            monkeypatch.delenv(name, raising=False)


@pytest.fixture
def gpu():
    with interop.sim.simulate(devices=2) as gpu:
        yield gpu


class StandIn(Adapter):
    """A simulated library with a current stream, given as anything that has a handle."""

    simulated = True

    def __init__(self, library):
        self.library = library
        self.type = type("Stream", (types.SimpleNamespace,), {"__module__": library})
        self.set_up = True
        self.asked = 0
        self.kept = True

    def stream_handle(self, stream):
        return stream.handle if isinstance(stream, self.type) else None

    def keeps_alive(self, stream):  # noqa: ARG002
        return self.kept

    def make_stream(self, source):
        return self.type(handle=source.handle, source=source)

    def is_set_up(self, device):  # noqa: ARG002
        return self.set_up

    def current_stream(self):
        self.asked += 1
        return self.current

    def before(self, stream):  # noqa: ARG002
        return self.current

    def enter(self, stream, before):  # noqa: ARG002
        self.current = self.type(handle=stream.handle)  # as PyTorch's, of which it is the same

    def leave(self, before):
        self.current = before

    def take(self, stream):
        self.current = self.type(handle=interop.as_stream(stream).cuda_stream, source=stream)


@pytest.fixture
def alone(registry, monkeypatch):
    """Of all libraries, only the stand-ins are installed."""
    installed = libraries._is_installed
    monkeypatch.setattr(libraries, "_is_installed", lambda name: name in ("alpha", "beta") and installed(name))


@pytest.fixture
def pair(gpu, alone, monkeypatch):
    """Two stand-ins, loaded, each with a current stream of its own."""
    found = []
    for name in ("alpha", "beta"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        adapter = StandIn(name)
        interop.register(name, adapter)
        adapter.take(interop.new_stream(1, priority=-2))
        found.append(adapter)
    return found


def whats(found, kind="warning"):
    return [advice.what for advice in found.advice if advice.kind == kind]


# -- what it sees --------------------------------------------------------------------------------------------------


def test_current_streams(pair):
    alpha, beta = pair
    found = interop.doctor()
    assert [library.name for library in found.libraries] == ["alpha", "beta"]
    for library, adapter in zip(found.libraries, pair, strict=True):
        stream = interop.as_stream(adapter.current)
        assert library.loaded
        assert library.adapter == "registered: StandIn"
        assert library.current == StreamFacts(
            stream.cuda_stream, library.name, 1, stream.stream_id, blocking=False, priority=-2, capturing=False
        )
    assert found.warnings == []
    assert any("a simulation runs" in what for what in whats(found, "note"))
    assert any("they work on two streams" in what for what in whats(found, "note"))
    beta.take(alpha.current.source)
    assert any("both work on one stream" in what for what in whats(interop.doctor(), "note"))


def test_the_doctor_breaks_no_capture_and_runs_nothing(gpu, pair):
    capturing, busy = (adapter.current.source for adapter in pair)
    shut = gpu.gate(busy)
    assert not gpu.runtime.cudaStreamBeginCapture(capturing.cuda_stream, 0)[0]
    found = interop.doctor()
    assert not shut.is_open
    assert found.libraries[0].current.capturing is True
    assert any("captures a graph" in what for what in whats(found))
    assert int(gpu.runtime.cudaStreamEndCapture(capturing.cuda_stream)[0]) == 0
    assert not any("captures a graph" in what for what in whats(interop.doctor()))
    shut.open()


def test_a_library_that_is_not_set_up_is_not_asked(pair):
    pair[0].set_up = False
    found = interop.doctor()
    assert found.libraries[0].remark == "not asked: it has not used the GPU yet"
    assert (pair[0].asked, pair[1].asked) == (0, 1)
    assert interop.doctor(probe=True).libraries[0].current


def test_without_a_context_no_library_is_asked(gpu, pair, monkeypatch):
    monkeypatch.setattr(libraries, "has_context", lambda *_: False)
    found = interop.doctor()
    assert {library.remark for library in found.libraries} == {"not asked: nothing has used device 0 yet"}
    assert not any(adapter.asked for adapter in pair)


def test_a_library_that_fails_when_asked_does_not_hide_the_others(pair):
    del pair[0].current
    found = interop.doctor()
    assert "AttributeError" in found.libraries[0].failure
    assert found.libraries[1].current
    assert any("AttributeError" in what for what in whats(found))


def test_a_stream_in_use_is_known_by_its_owner(pair):
    alpha, beta = pair
    alpha.kept = beta.kept = False
    stream = interop.new_stream(1, priority=-2)
    bare = interop.new_stream()
    with interop.use(bare.cuda_stream), interop.use(stream, "alpha"):
        found = interop.doctor()
    assert found.libraries[0].current == StreamFacts(
        stream.cuda_stream, "alpha", 1, stream.stream_id, blocking=False, priority=-2, capturing=False
    )
    assert found.libraries[1].current.address == bare.cuda_stream
    assert "nothing keeps it alive" in found.libraries[1].current.not_asked
    with interop.use(stream, "alpha"):
        other = interop.new_stream()
        alpha.take(other)
        assert "nothing keeps it alive" in interop.doctor().libraries[0].current.not_asked


def test_there_is_no_warning_about_a_stream_in_use():
    facts = healthy(libraries=[library("cupy", current=current(address=0x1000))], in_use=frozenset({0x1000}))
    assert not [advice for advice in advise(facts) if "Stream.use()" in advice.what]


def test_probe_hands_out_a_stream_and_takes_it_back(pair):
    found = interop.doctor(probe=True)
    assert {library.round_trip for library in found.libraries} == {"ok"}
    assert {library.round_trip for library in interop.doctor().libraries} == {None}
    pair[0].make_stream = lambda _source: pair[0].type(handle=1)
    found = interop.doctor(probe=True)
    assert found.libraries[0].round_trip.startswith("failed: it came back as")
    assert any("does not come back as the same stream" in what for what in whats(found))


def test_probe_imports_and_a_plain_look_does_not(alone, tmp_path, monkeypatch):
    (tmp_path / "alpha.py").write_text("raise OSError('libalpha.so: not found')")
    (tmp_path / "beta.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("alpha", "beta"):
        interop.register(name, StandIn(name))
    found = interop.doctor()
    assert [library.remark for library in found.libraries] == ["not loaded", "not loaded"]
    assert "beta" not in sys.modules
    assert [library.failure for library in found.libraries] == ["", ""]
    found = interop.doctor(probe=True)
    assert found.libraries[0].failure == "cannot be imported: OSError: libalpha.so: not found"
    assert found.libraries[1].loaded
    monkeypatch.delitem(sys.modules, "beta")


@pytest.mark.needs("no_gpu")
def test_no_driver():
    found = interop.doctor()
    assert (found.machine.gpus, found.machine.driver_cuda, found.machine.current_device) == ((), None, None)
    assert found.warnings[0].about == "GPU"
    assert "no CUDA device can be used here" in found.warnings[0].what
    assert "install NVIDIA's driver" in found.warnings[0].fix
    assert not any(library.current for library in found.libraries)


def test_nothing_installed(gpu, alone):
    found = interop.doctor()
    assert found.libraries == ()
    assert found.machine.gpus
    assert whats(found) == ["none of the libraries that interop knows is installed"]


def test_installed_libraries_are_listed_with_their_versions(registry):
    found = {library.name: library.distributions for library in interop.doctor().libraries}
    for name, distributions in found.items():
        if name != "acme_streams":
            assert distributions, name
        for distribution, version in distributions.items():
            assert importlib.metadata.version(distribution) == version


def test_the_doctor_imports_no_library_and_no_rich(python):
    code = """
import json, sys
import interop
interop.doctor().to_dict(), interop.doctor()._repr_html_()
print(json.dumps(list(sys.modules)))
"""
    imported = {module.partition(".")[0] for module in python(code)}
    assert not imported & {*LIBRARIES, "numpy", "rich"}


@pytest.mark.parametrize("value", ["0", "1"])
def test_what_0_means_agrees_with_the_adapters(value, interop_need, monkeypatch):
    monkeypatch.setenv(BINDINGS_VARIABLE, value)
    interop_need("cupy", "numba", "rmm")
    import cupy
    from numba.cuda.cudadrv.driver import Stream
    from rmm.pylibrmm.stream import DEFAULT_STREAM

    nulls = {"cupy": cupy.cuda.Stream.null, "numba": Stream(0, external=True), "rmm": DEFAULT_STREAM}
    for name, null in nulls.items():
        handle = adapters.adapter_named(name).stream_handle(null)
        assert libraries.null_stream(name) == {1: "legacy", 2: "per-thread"}[handle]
    assert libraries.null_stream("cuda.core") == libraries.null_stream("numba")


@pytest.mark.parametrize(("value", "kind"), [("0", "legacy"), ("1", "per-thread"), ("", "legacy"), ("yes", "legacy")])
def test_the_default_stream_of_cupy(value, kind, monkeypatch):
    monkeypatch.setenv(CUPY_VARIABLE, value)
    assert libraries.default_stream("cupy") == kind
    assert libraries.null_stream("cupy") == "legacy"


# -- how it shows it -----------------------------------------------------------------------------------------------


def test_a_diagnosis_as_text_as_html_and_as_data(pair):
    found = interop.doctor()
    address = f"{pair[0].current.handle:#x}"
    for drawn in (str(found), repr(found), found._repr_html_(), json.dumps(found.to_dict())):
        assert "alpha" in drawn
        assert "extension" in drawn
    assert address in found._repr_html_()
    assert "SIMULATED" in str(found)


@pytest.mark.parametrize("width", [80, 100])
def test_the_diagnosis_is_as_wide_as_the_terminal(pair, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    assert width - 20 < max(map(len, str(interop.doctor()).splitlines())) <= width


def test_an_adapter_of_a_plugin_is_shown_by_its_package(registry, monkeypatch):
    point = EntryPoint("alpha", "alpha.adapters:Alpha", "interop.adapters")._for(
        types.SimpleNamespace(name="alpha-interop", version="1.2")
    )
    monkeypatch.setattr(adapters, "_plugins", lambda: {"alpha": [point]})
    assert adapters.origin("alpha") == "alpha.adapters:Alpha (alpha-interop 1.2)"
    (row,) = drawing.library_rows([library("alpha", adapter=adapters.origin("alpha"))])
    assert row[2] == "plugin: alpha-interop 1.2"
    (row,) = drawing.library_rows([library("cupy", adapter=adapters.origin("cupy"))])
    assert row[2] == "built in"


def run(*options, code="import sys; from interop.__main__ import main; sys.exit(main(sys.argv[1:]))", **variables):
    environment = {**os.environ, "COLUMNS": "200", **variables}
    return subprocess.run(
        [sys.executable, "-c", code, *options], capture_output=True, text=True, timeout=60, env=environment
    )


@pytest.mark.needs("no_gpu")
def test_the_command_prints_nothing_else(tmp_path):
    (tmp_path / "rmm.py").write_text("print('hello, this is a library')")
    result = run("doctor", "--probe", "--json", PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))
    assert json.loads(result.stdout)["libraries"]
    assert "hello, this is a library" in result.stderr


@pytest.mark.needs("no_gpu")
def test_the_command():
    result = run("doctor")
    assert result.returncode == 1
    assert "no CUDA device can be used here" in result.stdout
    result = run("doctor", "--json")
    assert result.returncode == 1
    assert json.loads(result.stdout)["machine"]["gpus"] == []


def test_the_table_fits_an_ascii_terminal():
    """Characters of names, too: an environment variable may hold anything."""
    shown = run("doctor", PYTHONIOENCODING="ascii", CUDA_VISIBLE_DEVICES="\N{SNOWMAN}").stdout
    assert "-> " in shown
    assert r"CUDA_VISIBLE_DEVICES=\u2603" in shown
    code = "import interop; print(interop.doctor())"
    assert "-> " in run(code=code, PYTHONIOENCODING="ascii").stdout
    assert "→ " in run(code=code, PYTHONIOENCODING="utf-8").stdout
    assert run(code=code, LC_ALL="C").returncode == 0


# -- each warning, once, and once not --------------------------------------------------------------------------------


def current(**facts):
    return replace(
        StreamFacts(1, "?", 0, 7, priority=0, capturing=False),
        **facts,
    )


def library(name="cupy", *, version="14.2.0", default="legacy", **facts):
    base = Library(name, {name: version}, loaded=True, adapter="interop.adapters.x", null=default, default=default)
    return replace(base, **facts)


def machine(**facts):
    gpus = (Gpu(0, "NVIDIA H200", 150 * 2**30, "9.0", has_context=True),)
    base = Machine(
        interop="1",
        extension="in use",
        python="3.12",
        bindings="13.3.1",
        bindings_failure="",
        driver="580.1",
        driver_cuda="13.0",
        runtime_cuda="13.0",
        gpus=gpus,
        current_device=0,
        simulated=False,
        forked=False,
        problem="",
        variables={},
    )
    return replace(base, **facts)


def packages(**versions):
    return Packages(versions)


def healthy(**facts):
    found = [
        library("cuda.bindings"),
        library("cupy", current=current()),
        library("numba", distributions={"numba": "0.68.1", "numba-cuda": "0.30.4"}),
        library("torch", current=current()),
    ]
    return Facts(**{"machine": machine(), "libraries": found, "packages": packages(numpy="2.4.6"), **facts})


BROKEN = {
    "no driver": (
        {"machine": machine(gpus=(), problem="no device", driver_cuda=None)},
        ("GPU", "no device", "install NVIDIA's driver"),
    ),
    "an old driver": (
        {"machine": machine(gpus=(), problem="no device", driver_cuda="12.8")},
        (
            "GPU",
            "no device",
            'for CUDA 12.8, and cuda-bindings 13.3.1 for 13: update the driver, or pip install "cuda-python<13", ',
        ),
    ),
    "hidden devices": (
        {"machine": machine(gpus=(), problem="no device")},
        ("GPU", "no device", "CUDA_VISIBLE_DEVICES"),
    ),
    "forked": ({"machine": machine(gpus=(), problem="forked", forked=True)}, ("GPU", "forked", "spawn")),
    "nothing installed": ({"libraries": []}, ("libraries", "none of the libraries", "pip install cupy-cuda13x ")),
    "nothing installed, CUDA 12": (
        {"libraries": [], "machine": machine(driver_cuda="12.8", runtime_cuda="12.9")},
        ("libraries", "none of the libraries", 'pip install cupy-cuda12x "numba-cuda[cu12]"'),
    ),
    "every launch blocks": (
        {"machine": machine(variables={"CUDA_LAUNCH_BLOCKING": "1"})},
        ("CUDA_LAUNCH_BLOCKING", "every launch blocks the host", "unset it"),
    ),
    "cannot be imported": (
        {"libraries": [library("cupy", failure="cannot be imported: OSError: x")]},
        ("cupy", "cannot be imported: OSError: x", "repair its installation"),
    ),
    "no round trip": (
        {"libraries": [library("cupy", round_trip="failed: x")]},
        ("cupy", "does not come back as the same stream", "report this"),
    ),
    "installed twice": (
        {"libraries": [library("cupy", distributions={"cupy-cuda12x": "14", "cupy-cuda13x": "14"})]},
        ("cupy", "cupy-cuda12x, cupy-cuda13x", "pip uninstall cupy-cuda12x cupy-cuda13x"),
    ),
    "NumPy too new for numba-cuda": (
        {"packages": packages(numpy="2.5.0")},
        ("numba", "NumPy 2.5.0 is too new for numba-cuda 0.30.4", 'pip install "numpy<2.5"'),
    ),
    "another interop": (
        {"packages": packages(interop="1.7")},
        ("interop", "the package interop 1.7 is another project", "pip uninstall interop, then"),
    ),
    "a build for the CPU": (
        {"libraries": [library("torch", version="2.13.0+cpu")]},
        ("torch", "a build for the CPU", "install its build for CUDA"),
    ),
    "cannot use a GPU": (
        {"libraries": [library("torch", remark="cannot use a GPU, as it is installed")]},
        ("torch", "cannot use a GPU", "install its build for CUDA"),
    ),
    "Numba's own variable": (
        {"machine": machine(variables={"NUMBA_CUDA_PER_THREAD_DEFAULT_STREAM": "1"})},
        ("numba", "does nothing", "set CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM=1 instead"),
    ),
    "0 means two things": (
        {"libraries": [library("cupy", default="per-thread"), library("torch")]},
        ("default streams", "the legacy one in torch; the per-thread one in cupy", "interop.use(stream)"),
    ),
    "a blocking stream against the legacy one": (
        {
            "libraries": [
                library("torch", current=current()),
                library("warp", current=current(address=0x1000, blocking=True)),
            ]
        },
        ("torch, warp", "each waits for all earlier work of the other", "interop.new_stream()"),
    ),
    "a sticky use()": (
        {"libraries": [library("cupy", current=current(address=0x1000, blocking=False))]},
        ("cupy", "an earlier Stream.use()", "cupy.cuda.Stream.null.use()"),
    ),
    "a sticky set_stream()": (
        {"libraries": [library("torch", current=current(address=0x1000, blocking=False))]},
        ("torch", "an earlier torch.cuda.set_stream()", "torch.cuda.set_stream(torch.cuda.default_stream())"),
    ),
    "a current stream that nobody keeps": (
        {
            "libraries": [
                library("warp", current=current(address=0x1000, not_asked="not asked: nothing keeps it alive"))
            ]
        },
        ("warp", "only by its address", 'interop.as_stream(owner).to("warp")'),
    ),
    "a capturing stream": (
        {"libraries": [library("warp", current=current(address=0x1000, capturing=True))]},
        ("warp", "captures a graph", "end the capture"),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_warning(name):
    changed, (about, what, fix) = BROKEN[name]
    warnings = [advice for advice in advise(healthy(**changed)) if advice.kind == "warning"]
    assert [advice.about for advice in warnings] == [about]
    assert what in warnings[0].what
    assert fix in warnings[0].fix


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"packages": packages()},
        {"machine": machine(variables={"CUDA_LAUNCH_BLOCKING": "0"})},
        {"machine": machine(variables={"NUMBA_CUDA_PER_THREAD_DEFAULT_STREAM": "0"})},
        {"libraries": [library("numba", distributions={"numba-cuda": "0.31.0"})], "packages": packages(numpy="2.5.0")},
        {"libraries": [library("numba", distributions={"numba": "0.68.1"})], "packages": packages(numpy="2.5.0")},
        # Blocking streams are no matter of each other, nor of a legacy stream on another device.
        {"libraries": [library(name, current=current(address=0x1000, blocking=True)) for name in ("warp", "alpha")]},
        {
            "libraries": [
                library("torch", current=current()),
                library("warp", current=current(address=0x1000, blocking=True, device=1)),
            ]
        },
        {
            "libraries": [
                library("torch", current=current()),
                library("warp", current=current(address=0x1000, blocking=False)),
            ]
        },
        {"libraries": [library("cupy", default="per-thread", current=current(address=2))]},
    ],
)
def test_no_warning(changed):
    assert [advice for advice in advise(healthy(**changed)) if advice.kind == "warning"] == []


# What is set, loaded and installed; then what the advice says; then the same with no trap in it.
TRAPS = {
    "CUDF_PER_THREAD_STREAM": ("CUDF_PER_THREAD_STREAM=1", "per-thread default stream", "CUDF_PER_THREAD_STREAM=0"),
    "CUPY_CUDA_ARRAY_INTERFACE_SYNC": (
        "CUPY_CUDA_ARRAY_INTERFACE_SYNC=0",
        "CuPy does not wait",
        "CUPY_CUDA_ARRAY_INTERFACE_SYNC=1",
    ),
    "NUMBA_CUDA_ARRAY_INTERFACE_SYNC": (
        "NUMBA_CUDA_ARRAY_INTERFACE_SYNC=0",
        "Numba does not wait",
        "NUMBA_CUDA_ARRAY_INTERFACE_SYNC=1",
    ),
    "CUDA_DEVICE_MAX_CONNECTIONS": (
        "CUDA_DEVICE_MAX_CONNECTIONS=1",
        "a missing wait may not show",
        "CUDA_DEVICE_MAX_CONNECTIONS=32",
    ),
    "MPS": ("CUDA_MPS_PIPE_DIRECTORY=/tmp/mps", "CUDA_MPS_PIPE_DIRECTORY set", "CUDA_LAUNCH_BLOCKING=0"),
    "cuvs": ("cuvs cuvs-cu13==26.10.1", "crashes the process", "cuvs cuvs-cu13==26.12.0"),
    "cvcuda": ("cvcuda", "synchronises the whole device", "cvcuda-cu13==0.19"),
    "nccl.core": ("nccl.core", "order no arrays", "nccl4py==0.6"),
    "DALI": ("nvidia.dali.experimental.dynamic", "submitted later", "nvidia.dali"),
    "onnxruntime": ("onnxruntime onnxruntime-gpu==1.31", "names no stream", "onnxruntime onnxruntime==1.31"),
}


def with_(said):
    """A healthy machine with what a test says: variables, loaded modules and packages."""
    words = said.split()
    variables = dict(word.split("=") for word in words if re.fullmatch(r"[A-Z_]+=\S*", word))
    versions = dict(word.split("==") for word in words if "==" in word)
    modules = frozenset(word for word in words if "=" not in word)
    return healthy(machine=machine(variables=variables), packages=packages(**versions), loaded=modules)


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_is_known_where_it_is_and_only_there(name):
    there, what, not_there = TRAPS[name]
    (trap,) = [advice for advice in advise(with_(there)) if advice.about == name]
    assert what in trap.what
    assert trap.fix
    assert trap.kind == ("warning" if name == "cuvs" else "note")
    for said in (not_there, ""):
        assert not [advice for advice in advise(with_(said)) if advice.about == name]


def test_a_variable_that_is_no_number_is_no_trap():
    said = " ".join(f"{name}=x" for name in TRAPS if name.isupper() and name not in ("MPS", "CUDF_PER_THREAD_STREAM"))
    assert not [advice for advice in advise(with_(said)) if advice.about in TRAPS]


def test_the_traps_of_this_process(pair, monkeypatch):
    known = {"MPS", "cvcuda"}
    assert not [advice for advice in interop.doctor().advice if advice.about in known]
    monkeypatch.setitem(sys.modules, "cvcuda", types.ModuleType("cvcuda"))
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/tmp/mps")
    found = interop.doctor()
    assert {advice.about for advice in found.advice} >= known
    assert found.machine.variables["CUDA_MPS_PIPE_DIRECTORY"] == "/tmp/mps"


def test_missing_libraries_are_named_and_how_to_install_them():
    absent = sorted(TABLE.keys() - {library.name for library in healthy().libraries})
    assert {"cuda.core", "warp"} <= {*absent}
    for found, missing in ((healthy(), True), (healthy(libraries=[library(name) for name in TABLE]), False)):
        notes = [advice for advice in advise(found) if advice.what.startswith("not installed: ")]
        assert [(advice.kind, advice.what, advice.fix) for advice in notes] == [
            (
                "note",
                f"not installed: {', '.join(absent)}",
                f"if you want to use them: {adapters.how_to_install(*absent, cuda='13')}",
            )
        ] * missing


def test_libraries_that_are_not_loaded_are_for_probe():
    (note,) = (
        advice
        for advice in advise(healthy(libraries=[library("cupy", remark="not loaded"), library("torch")]))
        if "not loaded" in advice.what
    )
    assert note.what == "not loaded, so not looked into: cupy"
    assert note.fix.startswith("python -m interop doctor --probe, or")


@pytest.mark.parametrize("why", ["", "INTEROP_NATIVE=0"])
def test_the_extension(why, pair, monkeypatch):
    monkeypatch.setattr(_native, "native", None if why else object())
    monkeypatch.setattr(_native, "why_not", why)
    found = interop.doctor()
    assert found.to_dict()["machine"]["extension"] == (f"not in use: {why}" if why else "in use")
    assert any("DLPack" in what for what in whats(found, "note")) is bool(why)
    assert ("not in use: INTEROP_NATIVE=0" in str(found)) is bool(why)


def test_no_extra_installs_what_the_doctor_warns_of():
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extras = pyproject["project"]["optional-dependencies"].values()
    with_numba_cuda = [extra for extra in extras if any(name.startswith("numba-cuda[") for name in extra)]
    assert len(with_numba_cuda) == 2
    assert all("numpy<2.5" in extra for extra in with_numba_cuda)


def test_warnings_come_first():
    kinds = [advice.kind for advice in advise(healthy(machine=machine(variables={"CUDA_LAUNCH_BLOCKING": "1"})))]
    assert kinds == sorted(kinds, key=["warning", "note"].index)
    assert len(set(kinds)) == 2


@pytest.mark.parametrize(
    ("variable", "what"),
    [("CUDA_LAUNCH_BLOCKING", "every launch blocks"), ("INTEROP_CHECK", "every operation checks its stream first")],
)
def test_variables_are_read_from_the_environment(pair, monkeypatch, variable, what):
    assert not any(what in advice.what for advice in interop.doctor().advice)
    monkeypatch.setenv(variable, "1")
    found = interop.doctor()
    assert found.machine.variables[variable] == "1"
    assert any(what in advice.what for advice in found.advice)


def test_a_blocking_stream_against_the_legacy_one(gpu, pair):
    alpha, beta = pair
    alpha.take(interop.ExternalStream(1))
    beta.take(interop.new_stream(non_blocking=False))
    found = interop.doctor()
    assert found.libraries[1].current.blocking is True
    assert any("each waits for all earlier work of the other" in what for what in whats(found))
    assert not any("nothing orders them but waits" in what for what in whats(found, "note"))
    beta.take(interop.new_stream())
    assert not whats(interop.doctor())


def test_a_current_stream_that_nothing_keeps_alive(pair):
    pair[0].kept = False
    assert any("only by its address" in what for what in whats(interop.doctor()))


def test_a_forked_process(gpu, pair, monkeypatch):
    monkeypatch.setattr(gpu.cuda, "was_forked", True)
    for probe in (False, True):
        found = interop.doctor(probe=probe)
        assert found.machine.forked
        assert any("before this process was forked" in what for what in whats(found))
        assert not any(adapter.asked for adapter in pair)
    monkeypatch.undo()
