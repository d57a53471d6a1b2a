"""The benchmarks, as far as they run without a GPU; and that what they wrote says what was measured."""

import ast
import ctypes
import gc
import importlib
import json
import subprocess
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import pytest

import interop
from benchmarks import __main__ as command
from benchmarks import baseline, goals, handovers, left, operations, pingpong, plot, process, report
from benchmarks.lab import MODULES, OURS, PATHS, C, Lab
from benchmarks.left import Left
from benchmarks.measure import Measured, Operation, Row, measure, statement
from benchmarks.results import Results, Spread, Table, spread
from interop import sim
from interop.errors import RaceError


def all_operations(lab):
    every = operations.all_operations(lab), handovers.all_operations(lab), pingpong.all_operations(lab)
    return [operation for some in (*every, handovers.into_jax(lab)) for operation in some]


# -- measuring -------------------------------------------------------------------------------------------------------


def test_rows_take_turns_and_the_streams_are_drained_before_each_batch():
    told = []

    def noted(label):
        return Row(label, "", lambda: lambda n: told.append(label) or 1e9 * n)

    rows = measure(Operation("x", [noted("a"), noted("b"), noted("c")], 7), 3, lambda: told.append("-"))
    assert told == [*"-aa-bb-cc", *"-a-b-c", *"-b-c-a", *"-c-a-b"]
    assert [row.ns for row in rows] == [[1e9] * 3] * 3


def test_the_garbage_collector_is_off_meanwhile():
    states = []
    measure(Operation("x", [Row("a", "", lambda: lambda n: states.append(gc.isenabled()) or n)], 5), 4, int)
    assert set(states) == {False}
    assert gc.isenabled()


def test_a_batch_does_not_fill_the_launch_queue():
    fast, slow = (Row(label, "", lambda ns=ns: lambda n: n * ns) for label, ns in (("fast", 10), ("slow", 1e5)))
    assert [row.calls for row in measure(Operation("x", [fast, slow], most_calls=33), 2, int)] == [33, 15]


@pytest.mark.parametrize("when", ["prepare", "later"])
def test_a_row_that_fails_says_so_and_stops_no_other_row(when):
    def bad():
        if when == "prepare":
            raise LookupError("no such library")
        turns = iter([1, 1, 1])
        return lambda _n: next(turns)

    rows = measure(Operation("x", [Row("bad", "", bad), Row("y", "", lambda: statement("y", {"y": 1}))], 5), 6, int)
    assert rows[0].error == ("LookupError: no such library" if when == "prepare" else "StopIteration: ")
    assert [len(row.ns) for row in rows] == [0, 6]
    assert not rows[1].error


def test_the_ratio_is_taken_batch_by_batch():
    # The clock halves in the middle: the ratio of the medians would be 3, and neither batch says so.
    table = Table([Measured("x", C, "", 1, [100, 100, 400]), Measured("x", OURS, "", 1, [150, 300, 600])])
    assert table.ratio("x", OURS, C).median == 1.5
    assert table.ratio("x", OURS, "torch") is None
    assert spread([1, 2, 3, 4, 5]) == Spread(2, 3, 4)


# -- calls from C ----------------------------------------------------------------------------------------------------


@pytest.fixture
def cuda(tmp_path):
    """calls.c, with functions that count their calls and return a code."""
    made = mock.Mock(spec=["calls", "code"], calls=[0] * len(baseline.RUNTIME), code=0)

    def function(number):
        def call(*_):
            made.calls[number] += 1
            return made.code

        return ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 2)(call)

    made.kept = [function(number) for number in range(len(baseline.RUNTIME))]
    addresses = [ctypes.cast(each, ctypes.c_void_p).value for each in made.kept]
    try:
        made.baseline = baseline.Baseline(addresses, tmp_path)
    except baseline.CompilerMissingError as error:
        pytest.skip(str(error))
    return made


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("query", [1, 0, 0, 0, 0, 0]),
        ("synchronize", [0, 1, 0, 0, 0, 0]),
        ("record, event reused", [0, 0, 0, 1, 0, 0]),
        ("record, new event", [0, 0, 0, 1, 1, 1]),
        ("wait_event, CuPy's event", [0, 0, 1, 0, 0, 0]),
        ("wait_stream", [0, 0, 1, 1, 0, 0]),
        ("wait_stream, three streams", [0, 0, 3, 3, 0, 0]),
        ("to(torch), again", [0, 0, 1, 1, 0, 0]),
    ],
)
def test_c_makes_the_calls_of_the_operation(cuda, tmp_path, operation, expected):
    lab = FakeLab(tmp_path)
    lab.baseline = cuda.baseline
    batch = operations.c_row(lab, operation).prepare()
    assert batch(10) >= 0
    assert cuda.calls == [10 * count for count in expected]
    cuda.code = 700
    with pytest.raises(baseline.BaselineError, match="CUDA error 700"):
        batch(10)


@pytest.mark.needs("cuda.core")
def test_the_runtime_is_found():
    assert all(baseline.find_runtime())


# -- what is measured ------------------------------------------------------------------------------------------------


class FakeLab(Lab):
    """Streams and events that have what the real ones have, and do nothing."""

    def stream(self, label, number=0):
        return mock.MagicMock(spec=self._classes(label)[0]) if label in PATHS else f"{label} {number}"

    def event(self, label):
        return mock.MagicMock(spec=self._classes(label)[1]) if label in PATHS else 0

    def handle(self, number=0):
        return 0x1000 + number

    def event_handle(self, number=1):
        return 0x2000 + number

    def array(self, label, number=0):
        return f"{label} {number}"

    def library(self, _label):
        return True

    def default_stream(self, label):
        return self.stream(label)

    def current(self, _streams):
        return nullcontext()

    def drain(self):
        pass

    def names(self, text, label, **of):
        stands_in = mock.MagicMock()
        names = super().names(text, label, **of)
        return {name: stands_in if isinstance(made, ModuleType) else made for name, made in names.items()}

    def device(self):
        return mock.MagicMock()

    def _classes(self, label):
        if label == "Numba":
            driver = importlib.import_module("numba.cuda.cudadrv.driver")
            return driver.Stream, driver.Event
        module = importlib.import_module(PATHS[label])
        return (module.Stream, module.Event) if label == "cuda.core" else (module.cuda.Stream, module.cuda.Event)


def test_every_operation_has_a_name_of_its_own_and_interops_row_first(tmp_path):
    every = all_operations(Lab(tmp_path))
    assert len({operation.name for operation in every}) == len(every) > 40
    for operation in every:
        labels = [row.label for row in operation.rows]
        assert labels[0] == OURS
        assert len(set(labels)) == len(labels) > 1


def test_every_goal_is_about_something_that_is_measured(tmp_path):
    assert goals.GOALS.keys() <= {(o.name, row.label) for o in all_operations(Lab(tmp_path)) for row in o.rows}
    assert {*report.SHORT} <= {*operations.CALLS}


@pytest.mark.needs("cuda.core", "cupy", "numba", "torch")
def test_the_libraries_have_what_the_statements_use(tmp_path):
    modules = {name: importlib.import_module(path) for name, path in MODULES.items() if name != "jax"}
    found = 0
    for row in (row for operation in all_operations(FakeLab(tmp_path)) for row in operation.rows):
        if row.label == C:
            continue
        if row.label in PATHS:
            assert row.prepare()(2) > 0, row.statement
        for node in ast.walk(ast.parse(row.statement.partition(", in ")[0])):
            module, *path = ast.unparse(node).split(".")
            in_c = path[:1] == ["_C"]  # what a build of PyTorch for the processor lacks
            if isinstance(node, ast.Attribute) and module in modules and all(map(str.isidentifier, path)) and not in_c:
                thing = modules[module]
                for name in path:
                    thing = getattr(thing, name)
                found += 1
    assert found > 40


def test_interops_own_rows_in_a_simulation(tmp_path):
    with sim.simulate():
        lab, ran = Lab(tmp_path), 0
        for operation in operations.all_operations(lab):
            if any(word in operation.name for word in ("'s", "torch", "CuPy", "to(", "three")):
                continue  # these need a library
            [ours] = measure(replace(operation, rows=operation.rows[:1], most_calls=5), 2, int)
            assert len(ours.ns) == 2, ours.error
            ran += 1
    assert ran == 12


@pytest.mark.parametrize("label", [OURS, pingpong.HOST, pingpong.SHARED, pingpong.READS])
def test_the_order_of_a_round(label, monkeypatch):
    monkeypatch.setitem(pingpong.LAUNCH, "simulated", "gpu.launch({stream}, bump, writes=[{array}])")
    monkeypatch.setitem(pingpong._READ, "simulated", "{array}")

    def bump(x):
        x += 1

    with sim.simulate() as gpu:
        x = gpu.array([0.0], name="x")
        p, q = interop.new_stream(), interop.new_stream()
        names = {"gpu": gpu, "bump": bump, "x": x, "y": x, "a": p, "b": q, "p": p, "q": q}
        batch = statement(pingpong.kept("simulated", "simulated")[label], names)
        if label in (pingpong.SHARED, pingpong.READS):  # nothing orders these on two streams: the control
            with pytest.raises(RaceError):
                batch(3)
            return
        batch(3)
        q.synchronize()
        p.synchronize()
        assert gpu.read(x) == [6]


@pytest.mark.parametrize("count", [1, 5])
def test_threads_hand_over_at_once(count, tmp_path, monkeypatch):
    monkeypatch.setattr(FakeLab, "names", Lab.names)
    calls = []
    monkeypatch.setattr(interop, "handoff", lambda *given, producer: calls.append((*given, producer)))
    monkeypatch.setattr(FakeLab, "stream", lambda _, label, number: f"{label} {number}")
    batch = handovers.in_threads(FakeLab(tmp_path), count, handovers.HANDOFF)
    assert batch(10) > 0
    assert len(calls) == 11 * count
    assert len(set(calls)) == count  # no thread shares an array or a stream
    monkeypatch.setattr(interop, "handoff", mock.Mock(side_effect=LookupError("no")))
    with pytest.raises(LookupError):
        batch(10)


@pytest.mark.parametrize("leaks", [False, True])
def test_what_is_left_behind_is_found(leaks, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(FakeLab, "names", Lab.names)
    monkeypatch.setattr(FakeLab, "stream", lambda *_: None)
    monkeypatch.setattr(interop, "handoff", lambda *_, **__: kept.append([]) if leaks else [])
    lab = FakeLab(tmp_path)
    lab.runtime = mock.Mock(cudaMemGetInfo=lambda: (0, 90, 100))
    found = left.left_behind(lab, "CuPy", "torch", 5000, 60)
    assert not found.error
    assert found.made == 5000
    assert (found.objects, found.device) == (5000 if leaks else 0, 0)
    assert goals.left_verdict(replace(found, made=left.COUNT), "objects") == (goals.MISSED if leaks else goals.MET)
    if not leaks:  # fewer than a million do not show that the goal is met
        assert goals.left_verdict(found, "objects") == goals.UNKNOWN
    assert left.left_behind(lab, "CuPy", "torch", 5000, -1).made == 0
    monkeypatch.setattr(interop, "handoff", mock.Mock(side_effect=LookupError("no")))
    assert left.left_behind(lab, "CuPy", "torch", 5000, 60).error == "LookupError: no"


# -- a run -----------------------------------------------------------------------------------------------------------


def made_up():
    """interop takes 1.2 times what C does, and 0.12 times what torch does."""
    batches = [100.0, 110.0, 120.0, 130.0]
    times = {OURS: 1.2, C: 1.0, "torch": 10.0}
    rows = [Measured("wait_stream", label, "", 10, [x * ns for ns in batches]) for label, x in times.items()]
    rows += [Measured("query", OURS, "", 10, batches), Measured("query", "CuPy", "", 10, [ns / 2 for ns in batches])]
    rows += [Measured("synchronize", OURS, "", error="LookupError: no"), Measured("synchronize", C, "", 10, batches)]
    python = [Measured("wait_stream", label, "", 10, [x * ns for ns in batches]) for label, x in ((OURS, 9), (C, 1))]
    machine = {"gpu": "GPU 9000", "driver": "1.2", "cpu": "CPU", "date": "today", "python": "3.12", "versions": {}}
    lost = [Left("CuPy to torch", left.COUNT, 0, 4096, 100)]
    return Results(machine, {"batches": 4, "only": ""}, [], lost, rows, python)


def test_the_table_says_what_was_measured_and_which_goals_are_missed():
    results = made_up()
    text = "\n".join(report.report(results))
    assert "| wait_stream | 138 ns | C | 115 ns | 1.20 (1.20-1.20) | 9.00 (9.00-9.00) | <= 1.3 | met |" in text
    assert "|  |  | torch | 1,150 ns | 0.12 (0.12-0.12) |  | <= 0.15 | met |" in text
    assert "| query | 115 ns | CuPy | 58 ns | 2.00 (2.00-2.00) |  | <= 1.05 | **missed** |" in text
    assert "| synchronize |  | C | 115 ns |  |  | <= 1.35 | not measured |" in text
    assert "- synchronize, interop: `LookupError: no`" in text
    assert "CuPy to torch |  | objects | 0 |  |  | <= 0 | met |" in text
    assert "|  |  | bytes of the device | 4,096 |  |  | <= 0 | **missed** |" in text
    assert "goals **missed**: query (1.05 x CuPy); left behind, CuPy to torch, device\n" in text
    total = len(goals.GOALS) + 3 * len(handovers.WAYS)
    assert f"- 4 of {total} goals met\n- 2 of {total} goals **missed**" in text


def test_what_is_committed_says_what_its_json_says(tmp_path):
    results = Results.read(command.FOLDER / "results.json")
    written = (command.FOLDER / "results.md").read_text()
    assert written == "\n".join(report.report(results)) + "\n", "python -m benchmarks --report"
    rows = {(row["operation"], row["label"]): row["ns"] for row in map(asdict, results.rows)}
    for (operation, other), limit in goals.GOALS.items():
        ours, theirs = (sorted(rows.get((operation, label), [])) for label in (OURS, other))
        if ours and theirs and ours[-1] / theirs[0] < limit:  # met in every batch
            assert f"{operation} ({limit:g} x {other})" not in written
        if ours and theirs and ours[0] / theirs[-1] > limit:
            assert f"{operation} ({limit:g} x {other})" in written
    results.write(tmp_path / "r.json")
    assert (tmp_path / "r.json").read_bytes() == (command.FOLDER / "results.json").read_bytes()


def test_the_same_results_give_the_same_plot(tmp_path):
    for name in ("a.svg", "b.svg"):
        plot.draw(made_up(), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    plot.draw(Results(), tmp_path / "c.svg")


@pytest.mark.needs("no_gpu")
def test_without_a_gpu_nothing_is_written(tmp_path, capfd):
    assert command.main(["--quick", "--out", str(tmp_path / "r.json")]) == 2
    assert "need a GPU" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_process_writes_each_row_at_once_and_leaves_out_what_it_has_no_time_for(tmp_path, monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=0)
    monkeypatch.setattr(process, "time", clock)

    def job(_seconds):
        assert json.loads((tmp_path / "lines").read_text().splitlines()[-1])["name"] == "b"
        clock.now = 2
        return [Measured("b", OURS, "", 1, [2.0])]

    with (tmp_path / "lines").open("w") as out:
        process.run(out, [("a", None), ("b", job), ("c", None)], skip=1, seconds=1)
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "lines").read_text().splitlines()]
    assert kinds == ["machine", "begin", "row", "begin", "problem", "end"]


def test_what_comes_after_a_crash_is_measured(tmp_path, monkeypatch):
    """With processes that write what they would: the first one crashes in the second job, and so does none after it."""
    commands = []

    def process_that_writes(given, env, timeout, check):
        commands.append((given[given.index("--skip") + 1], env.get("INTEROP_NATIVE"), "--python" in given))
        lines = [{"kind": "machine", **made_up().machine}, {"kind": "begin", "number": len(commands), "name": "query"}]
        lines += [{"kind": "row", **asdict(row)} for row in made_up().rows[:1]]
        lines += [{"kind": "end", "extension": True}] if len(commands) > 1 else []
        Path(given[3]).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return subprocess.CompletedProcess(given, 0 if len(commands) > 1 else -11)

    monkeypatch.setattr(command.subprocess, "run", process_that_writes)
    monkeypatch.delenv("INTEROP_NATIVE", raising=False)
    assert command.main(["--only", "wait", "--out", str(tmp_path / "r.json")]) == 1
    assert commands == [("0", None, False), ("2", None, False), ("0", "0", True)]
    results = Results.read(tmp_path / "r.json")
    assert results.problems == ["query: the process ended, with status -11"]
    assert (len(results.rows), len(results.python)) == (2, 1)
    assert "- query: the process ended, with status -11" in (tmp_path / "r.md").read_text()


@pytest.mark.parametrize("out", [".", "results", "nowhere/results.json"])
def test_where_nothing_can_be_written_is_told_before_anything_is_measured(out, tmp_path, capfd):
    with pytest.raises(SystemExit) as ended:
        command.main(["--quick", "--out", str(tmp_path / out)])
    assert ended.value.code == 2
    assert "--out is the name of a file that ends in .json" in capfd.readouterr().err
