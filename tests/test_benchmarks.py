"""The benchmarks, as far as they go without a GPU: a mistake in them shall not be found on one."""

import ast
import builtins
import ctypes
import gc
import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from matplotlib.figure import Figure

import interop
from benchmarks import __main__ as command
from benchmarks import (
    baseline,
    compare,
    goals,
    growth,
    instructions,
    ledger,
    missed,
    pingpong,
    plot,
    process,
    report,
    startup,
)
from benchmarks.lab import Lab
from benchmarks.measure import Measured, Operation, Statement, Timed, measure
from benchmarks.operations import _MODULES, DRIVER, OURS, C, Calls
from benchmarks.results import NotResultsError, Results, Spread, Table, interval, spread
from docs import update
from interop import sim
from interop._native import native, why_not
from interop.errors import NotSupportedError, RaceError
from interop.stream import ExternalStream

REAL = {"cuda.core": "cuda.core", "CuPy": "cupy", "torch": "torch", "Numba": "numba.cuda", "cuda.bindings": None}
IN_SIMULATION = {
    "enter and leave, every loaded library",
    "query",
    "record, event reused",
    "record, new event",
    "synchronize",
    "wait_event",
    "wait_stream",
    "wait_stream, an object with __cuda_stream__",
    "wait_stream, by an event that the caller keeps",
    "wait_stream, in many threads",
    "wait_stream, of many streams",
    "wait_stream, the default stream",
    "wrap an address",
    "wrap an object with __cuda_stream__",
}
"""The operations whose row of interop's needs no library, and no array."""


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    return ctypes.CDLL(str(compiled(instructions.STUBS, tmp_path_factory.mktemp("stubs"))))


def compiled(source, folder):
    try:
        return baseline.compile_library(source, folder)
    except baseline.CompilerMissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def from_c(stubs, tmp_path_factory):
    return baseline.Baseline(entry_points(stubs), tmp_path_factory.mktemp("calls"))


def entry_points(stubs):
    return [ctypes.cast(getattr(stubs, name), ctypes.c_void_p).value for name in baseline.RUNTIME]


@pytest.fixture
def calls(stubs):
    """How often each stub was called."""
    counts, fails_with = (ctypes.c_int * 16).in_dll(stubs, "calls"), ctypes.c_int.in_dll(stubs, "fails_with")
    ctypes.memset(counts, 0, ctypes.sizeof(counts))
    counts.fails_with = fails_with
    yield counts
    fails_with.value = 0


def row(operation="wait_stream", label=OURS, ns=(100.0, 200.0), size=None, group="call", **other):
    reference = pingpong.SHARED if group == "ping-pong" else C
    kept = {"same": True, "statement": "", "calls": 10, **other}
    return Measured(operation, group, size, kept.pop("same"), reference, label, ns=list(ns), **kept)


def made_up(slower=1.0):
    """A run in which interop takes *slower* times 1.2 times what C does."""
    rows = []
    for name in ("wait_stream", "query"):
        rows += [
            row(name, C, [100, 110, 120, 130]),
            row(name, OURS, [slower * 1.2 * ns for ns in (100, 110, 120, 130)]),
        ]
        rows.append(row(name, "torch", [1000, 1100, 1200, 1300]))
    rows.append(row("query", "Numba", (), error="RuntimeError: no such thing"))
    rows += [row("to(torch) again", C, [100, 100], same=False), row("to(torch) again", OURS, [150, 150], same=False)]
    for place, label in enumerate(pingpong.WAYS):
        rows.append(row("CuPy <-> Numba", label, [25000 + 9000 * place] * 4, group="ping-pong"))
    for size in (1, 2):
        for label in (C, OURS):
            rows.append(row("wait_stream, of many streams", label, [300 * size] * 4, size, "growth"))
    machine = {"gpu": "GPU 9000", "driver": "1.2", "cpu": "CPU", "date": "today", "python": "3.12", "versions": {}}
    timing = {"what": "import interop", "after": "nothing", "seconds": [slower * ms / 1e3 for ms in (4, 5, 7)]}
    return Results(machine=machine, options={"batches": 4}, path="Python", startup=[timing], rows=rows)


# -- statistics ------------------------------------------------------------------------------------------------------


def test_quartiles():
    assert spread([1, 2, 3, 4, 5]) == Spread(2, 3, 4)
    assert spread([7]) == Spread(7, 7, 7)


def test_the_interval_of_the_median():
    """Its ranks are those in the tables of the sign test."""
    for n, rank in ((1, 1), (5, 1), (6, 1), (9, 2), (12, 3), (60, 22)):
        values = [*range(n, 0, -1)]
        assert interval(values) == Spread(rank, (n + 1) / 2, n + 1 - rank)


def test_the_ratio_is_taken_batch_by_batch():
    # The clock halves in the middle: the ratio of the medians would be 3, and neither batch says so.
    table = Table([row(label=C, ns=[100, 100, 400]), row(ns=[150, 300, 600])])
    assert table.ratio(table.get("wait_stream", OURS)).median == 1.5


def test_no_ratio_to_what_was_not_measured():
    table = Table([row(label=C, ns=[], error="gone"), row()])
    assert table.ratio(table.get("wait_stream", OURS)) is None
    assert table.get("wait_stream", C) is None


# -- measuring -------------------------------------------------------------------------------------------------------


def test_rows_take_turns_and_the_streams_are_drained_before_each_batch():
    told = []

    def noted(label):
        return Timed(label, "", lambda: lambda n: told.append(label) or 1e9 * n)

    operation = Operation("x", [noted("a"), noted("b"), noted("c")], most_calls=7)
    assert gc.isenabled()
    rows = measure(operation, 3, lambda: told.append("-"))
    assert gc.isenabled()
    warm = ["-", "a", "a", "-", "b", "b", "-", "c", "c"]
    assert told == [*warm, *"-a-b-c", *"-b-c-a", *"-c-a-b"]
    assert [row.ns for row in rows] == [[1e9] * 3] * 3
    assert {row.reference for row in rows} == {"a"}


def test_nothing_is_collected_meanwhile():
    states = []
    measure(Operation("x", [Timed("a", "", lambda: lambda n: states.append(gc.isenabled()) or n)], 5), 4, lambda: None)
    assert set(states) == {False}


def test_the_queue_is_not_filled():
    counts = []
    fast = Timed("fast", "", lambda: lambda n: counts.append(n) or n * 10)
    slow = Timed("slow", "", lambda: lambda n: n * 1e5)
    rows = measure(Operation("x", [fast, slow], most_calls=33), 2, lambda: None)
    assert [row.calls for row in rows] == [33, 15]
    assert counts[-1] == 33


@pytest.mark.parametrize("when", ["prepare", "later"])
def test_a_row_fails_alone(when):
    def bad():
        if when == "prepare":
            raise LookupError("no such library")
        turns = iter([1, 1, 1])
        return lambda _n: next(turns)

    rows = measure(Operation("x", [Timed("bad", "", bad), Statement("good", "y + 1", lambda: {"y": 1})], 5), 6, int)
    assert [row.error for row in rows] == [
        "LookupError: no such library" if when == "prepare" else "StopIteration: ",
        "",
    ]
    assert [len(row.ns) for row in rows] == [0, 6]
    assert all(ns > 0 for ns in rows[1].ns)


# -- from C ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("query", (1,), [1, 0, 0, 0, 0, 0]),
        ("synchronize", (1,), [0, 1, 0, 0, 0, 0]),
        ("record", (1, 2), [0, 0, 0, 1, 0, 0]),
        ("record_new", (1,), [0, 0, 0, 1, 1, 1]),
        ("wait_event", (1, 2), [0, 0, 1, 0, 0, 0]),
        ("wait_streams", (1, [2, 3, 4], [5, 6, 7]), [0, 0, 3, 3, 0, 0]),
    ],
)
def test_the_calls_from_c(from_c, calls, name, arguments, expected):
    assert getattr(from_c, name)(10, *arguments) >= 0
    assert list(calls)[:6] == [10 * count for count in expected]
    calls.fails_with.value = 700
    with pytest.raises(baseline.BaselineError, match="CUDA error 700"):
        getattr(from_c, name)(10, *arguments)


@pytest.mark.parametrize("mark_the_end", [False, True])
def test_there_and_back(from_c, calls, mark_the_end):
    from_c.there_and_back(10, 1, 2, [3, 4, 5], mark_the_end=mark_the_end)
    assert list(calls)[:6] == [0, 0, 20, 30 if mark_the_end else 20, 0, 0]


def test_in_threads(from_c, calls):
    assert from_c.wait_stream_in_threads(1000, [1, 2, 3], [4, 5, 6], [7, 8, 9]) > 0
    assert calls[2] > 0
    calls.fails_with.value = 700
    with pytest.raises(baseline.BaselineError, match="700"):
        from_c.wait_stream_in_threads(10, [1, 2], [3, 4], [5, 6])


def test_a_machine_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(baseline.CompilerMissingError, match="install gcc"):
        baseline.compile_library(baseline.SOURCE, tmp_path)


@pytest.mark.needs("cuda.core")
def test_the_runtime_is_found():
    found, path = baseline.find_runtime()
    assert all(found)
    assert "cudart" in path


@pytest.mark.needs("cuda.core")
def test_the_driver_is_found(monkeypatch, stubs):
    from cuda.bindings import runtime

    def entry_point(name, version, _flags):
        assert version == 12000
        name = name.decode().replace("cu", "cuda").replace("Create", "CreateWithFlags")
        return 0, ctypes.cast(getattr(stubs, name), ctypes.c_void_p).value, 0

    monkeypatch.setattr(runtime, "cudaGetDriverEntryPointByVersion", entry_point)
    assert baseline.find_driver() == entry_points(stubs)
    for answer in ((0, 0, 1), (700, 1, 0)):
        monkeypatch.setattr(runtime, "cudaGetDriverEntryPointByVersion", lambda *_, answer=answer: answer)
        with pytest.raises(baseline.BaselineError, match="no cuStreamQuery"):
            baseline.find_driver()


def test_the_rows_from_c(from_c, calls, tmp_path):
    """Those of the driver make the same calls as those of the runtime, but by functions of the driver."""
    others = ctypes.CDLL(str(compiled(instructions.STUBS, tmp_path)))
    of_the_driver = (ctypes.c_int * 16).in_dll(others, "calls")
    lab = MockedLab(tmp_path)
    lab.baseline, lab.driver = from_c, baseline.Baseline(entry_points(others), tmp_path / "driver")
    pairs = {o.name: o.rows[:2] for o in Calls(lab).all() if o.rows[1].label == DRIVER}
    assert set(pairs) == set(report.SHORT)
    for by_runtime, by_driver in pairs.values():
        ctypes.memset(calls, 0, ctypes.sizeof(calls))
        ctypes.memset(of_the_driver, 0, ctypes.sizeof(of_the_driver))
        by_runtime.prepare()(10)
        made = list(calls)
        assert any(made)
        assert not any(of_the_driver)
        by_driver.prepare()(10)
        assert list(of_the_driver) == made == list(calls)
        assert set(re.findall(r"cuda\w+", by_runtime.statement)) <= set(baseline.RUNTIME)
        assert set(re.findall(r"cu[A-Z]\w+", by_driver.statement)) <= set(baseline.DRIVER)
        assert "cuda" not in by_driver.statement


# -- what is measured ------------------------------------------------------------------------------------------------


def all_operations(lab):
    return [*Calls(lab).all(), *pingpong.all_operations(lab), *growth.all_operations(lab)]


class MockedLab(Lab):
    """Streams and events that have what the real ones have, and do nothing."""

    def handle(self, number):
        return 0x1000 + number

    def lasting(self, library, number):
        return self.stream(library, number)

    def event_handle(self, number):
        return 0x2000 + number

    def default_stream(self, library):
        return self.stream(library, 0)

    def new_array(self, library):  # noqa: ARG002  (as of Lab)
        return mock.MagicMock()

    def module(self, library):  # noqa: ARG002  (as of Lab)
        stands_in = mock.MagicMock()
        stands_in.cudaEventCreateWithFlags.return_value = (0, 1)
        stands_in.cudaSetDevice.return_value = (0,)
        stands_in.event = lambda **_: self.event("Numba", 1)
        return stands_in

    def wrap(self, library, number):
        return (
            super().wrap(library, number) if library == "protocol" else mock.MagicMock(spec=self._classes(library)[0])
        )

    def _event(self, library, number):  # noqa: ARG002  (as of Lab)
        return mock.MagicMock(spec=self._classes(library)[1])

    def _classes(self, library):
        if library == OURS:
            return interop.ExternalStream, interop.Event
        if library == "cuda.bindings":
            return int, int
        module = importlib.import_module(REAL[library])
        if library == "Numba":
            driver = importlib.import_module("numba.cuda.cudadrv.driver")
            return driver.Stream, driver.Event
        if library == "cuda.core":
            return module.Stream, module.Event
        return module.cuda.Stream, module.cuda.Event


def test_the_operations_have_names_of_their_own(tmp_path):
    operations = all_operations(Lab(tmp_path))
    names = [(operation.name, operation.size) for operation in operations]
    assert len(set(names)) == len(names) > 60
    for operation in operations:
        labels = [row.label for row in operation.rows]
        assert len(set(labels)) == len(labels)
        assert operation.rows[0].label == (pingpong.SHARED if operation.group == "ping-pong" else C)
        assert any(label.startswith(OURS) for label in labels)
        assert (DRIVER in labels) == (operation.name in report.SHORT)


@pytest.mark.needs("cuda.core", "cupy", "numba", "torch")
def test_the_statements_of_the_peers(tmp_path):
    lab = MockedLab(tmp_path)
    run = 0
    for operation in all_operations(lab):
        for peer in operation.rows:
            if peer.label in REAL and operation.group != "ping-pong":
                assert peer.prepare()(3) > 0, peer.statement
                run += 1
    assert run > 60


@pytest.mark.needs("cuda.core", "cupy", "numba", "torch")
def test_the_libraries_have_what_the_statements_name(tmp_path, monkeypatch):
    from cuda.bindings import runtime

    modules = {_MODULES[library]: importlib.import_module(path) for library, path in REAL.items() if path}
    modules |= {"runtime": runtime, "interop": interop}
    monkeypatch.setattr("benchmarks.operations._kept", lambda row: row.names())
    lab, found = MockedLab(tmp_path), 0
    for statement in (row for operation in all_operations(lab) for row in operation.rows if isinstance(row, Statement)):
        nodes = list(ast.walk(ast.parse(statement.statement)))
        loaded = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        assert loaded <= {*statement.names(), *stored, *vars(builtins)}, statement.statement
        for node in nodes:
            module, *path = ast.unparse(node).split(".")
            if isinstance(node, ast.Attribute) and module in modules and all(map(str.isidentifier, path)):
                thing = modules[module]
                for name in path:
                    thing = getattr(thing, name)
                found += 1
    assert found > 40


def test_interops_own_rows_in_a_simulation(tmp_path):
    ran = set()
    with sim.simulate():
        lab = Lab(tmp_path)
        for operation in all_operations(lab):
            if operation.group == "ping-pong" or (operation.size or 0) > 4:  # more of the same, and slow here
                continue
            ours = [row for row in operation.rows if row.label == OURS]
            measured = measure(replace(operation, rows=ours, most_calls=5), 2, lab.drain)
            assert len(measured) == 1
            if not measured[0].error:
                assert len(measured[0].ns) == 2
                ran.add(operation.name)
            elif operation.name in IN_SIMULATION:
                pytest.fail(f"{operation.name}: {measured[0].error}")
    assert ran == IN_SIMULATION


class SimulatedPlayer:
    library = "simulated"

    def __init__(self, gpu, number, array):
        self.native = gpu.stream(f"player {number}")
        self.stream = interop.as_stream(self.native)
        self.view = array
        self._gpu = gpu

    def launch(self, view):
        self._gpu.launch(self.native, bump, writes=[view])

    def convert(self, array):
        return array

    def synchronize(self):
        self.stream.synchronize()


def bump(x):
    x += 1


@pytest.mark.parametrize("label", [pingpong.HOST, pingpong.BY_WAIT, pingpong.SHARED, pingpong.DEFAULT])
@pytest.mark.parametrize("players", [2, 3])
def test_the_order_of_ping_pong(label, players):
    with sim.simulate() as gpu:
        array = gpu.array([0.0], name="x")
        team = [SimulatedPlayer(gpu, number, array) for number in range(players)]
        if label in (pingpong.SHARED, pingpong.DEFAULT):  # nothing orders these two here: the control
            with pytest.raises(RaceError):
                pingpong.WAYS[label](team, 3)
            return
        pingpong.WAYS[label](team, 3)
        for player in team:
            player.synchronize()
        assert gpu.read(array) == [3 * players]


def test_the_hand_overs_of_ping_pong(monkeypatch):
    """From each to the next; and the views go in the reverse order."""
    alive, log = set(), []

    class View:
        def __init__(self, name):
            self.name = name
            alive.add(name)

        def __del__(self):
            alive.discard(self.name)
            log.append(f"{self.name} goes")

    def handoff(view, consumer, *, producer, into):
        log.append(f"{producer} -> {consumer}")
        return View(into)

    class Player:
        def __init__(self, name):
            self.stream = self.library = name
            self.view = "base"
            self.kept = {}

        def launch(self, view):
            log.append(f"{self.stream} writes {getattr(view, 'name', view)}")

    monkeypatch.setattr(interop, "handoff", handoff)
    there = ["a writes base", "a -> b", "b writes b", "b -> c", "c writes c"]
    pingpong.by_new_handoff([Player("a"), Player("b"), Player("c")], 2)
    assert log == [*there, "c goes", "b goes", *there, "c goes", "b goes"]
    log.clear()
    pingpong.by_handoff([Player("a"), Player("b"), Player("c")], 2)
    assert [line for line in log if not line.endswith("goes")] == 2 * [*there, "c -> a"]
    assert not alive
    log.clear()
    team = [Player("a"), Player("b"), Player("c")]
    pingpong.by_kept_handoff(team, 2)
    assert [line for line in log if not line.endswith("goes")] == 2 * [*there, "c -> a"]
    assert {*team[0].kept} == {"a", "b", "c"}  # so the next batch has them again


def test_a_stream_of_no_known_library_is_borrowed_anew(tmp_path):
    with sim.simulate():
        lab = Lab(tmp_path)
        assert lab.stream(OURS, 0) is lab.stream(OURS, 0)
        assert lab.stream(OURS, 0) != lab.stream(OURS, 1)
        assert isinstance(lab.wrap(OURS, 0), ExternalStream)
        assert lab.stream("protocol", 0).__cuda_stream__() == (0, lab.handle(0))
        with pytest.raises(NotSupportedError):
            lab.stream(OURS, 0).to("cupy")


def test_selection(tmp_path):
    operations = all_operations(Lab(tmp_path))
    assert {o.group for o in process.selected(operations, "GROWTH", ours_only=False)} == {"growth"}
    chosen = list(process.selected(operations, "call: wait_stream", ours_only=True))
    assert all([row.label for row in operation.rows] == [C, OURS] for operation in chosen)
    assert {o.name for o in chosen} < {o.name for o in operations}


# -- what is made of it ----------------------------------------------------------------------------------------------


def test_results_are_read_as_they_were_written(tmp_path):
    results = made_up()
    results.write(tmp_path / "r.json")
    assert Results.read(tmp_path / "r.json") == results
    lines = (tmp_path / "r.json").read_text().splitlines()
    assert len(lines) < 2 * len(results.rows)  # a row is a line


def test_the_report():
    results = made_up()
    results.rows.append(row("wait_stream", DRIVER, [80, 88, 96, 104]))
    text = "\n".join(report.report(results))
    ours = "115 ns | 92 ns (0.80x, 0.80-0.80) | 138 ns (1.20x, 1.20-1.20) | 1.50x, 1.50-1.50"
    assert f"| wait_stream | {ours} |  |  | 1,150 ns (10.00x, 10.00-10.00) |  |  |" in text
    assert "| wait_stream | <= 1.3 x C | 1.20 (1.20-1.20) | met | 1.50 (1.50-1.50) |" in text
    assert "| wait_stream | <= 0.15 x torch | 0.12 (0.12-0.12) | met |  |" in text
    assert "| query | 1.20 |  |  | 10.00 |  |  |" in text
    assert "| to(torch) again |  |  | 150 ns |" in text  # no such call in C
    assert "| CuPy <-> Numba | 25.0 | 34.0 (1.36x, 1.36-1.36) |" in text
    assert "| interop | 300 (300-300) | 600 (600-600) |" in text
    assert "- query, Numba: `RuntimeError: no such thing`" in text
    assert "| import interop | nothing | 5.000 | 4.500-6.000 | 4.000 | 3 |" in text


def test_the_report_with_both_ways():
    results = made_up()
    results.path = "native"
    results.other = [row("wait_stream", C, [100, 100]), row("wait_stream", OURS, [300, 310])]
    for label, times in ((C, 1), (OURS, 3)):
        results.other.append(row("wait_stream, of many streams", label, [500 * times] * 4, 2, "growth"))
    for label, ns in ((pingpong.SHARED, 25000), (pingpong.BY_WAIT, 75000)):
        results.other.append(row("CuPy <-> Numba", label, [ns] * 4, group="ping-pong"))
    text = "\n".join(report.report(results))
    assert "| C | C, driver | interop | interop, times C, driver | interop, Python way | cuda.core |" in text
    assert "138 ns (1.20x, 1.20-1.20) |  | 305 ns (3.05x, 3.02-3.08) |" in text
    assert "| interop, in the process of the Python way |  | 1,500 (1,500-1,500) |" in text
    python = text.partition("The Python way:\n")[2].partition("## Growth")[0]
    assert "| CuPy <-> Numba | 25.0 | 75.0 (3.00x, 3.00-3.00) |" in python


def test_goals():
    verdicts = {verdict.goal: verdict for verdict in goals.verdicts(Table(made_up().rows))}

    def met(operation, against):
        return next(v.met for g, v in verdicts.items() if (g.operation, g.against) == (operation, against))

    assert met("wait_stream", C) is True  # 1.2 of 1.3
    assert met("wait_stream", "torch") is True  # 0.12 of 0.15
    assert met("wait_stream", "CuPy") is None
    assert met("to(torch) again", None) is False  # 150 ns of 100
    assert met("CuPy <-> Numba", pingpong.SHARED) is False
    assert "| to(torch) again | <= 100 ns | 150 ns (150-150) | **missed** |  |" in report.goal_table(made_up())


def test_goals_beyond_the_others_are_counted_apart():
    found = made_up()
    ours = {(pingpong.SHARED, 100), (pingpong.DEFAULT, 300), (pingpong.BY_WAIT, 105), (pingpong.BY_KEPT_HANDOFF, 120)}
    found.rows = [row("CuPy <-> Numba", label, [ns], group="ping-pong") for label, ns in ours]
    first, second = "\n".join(report.goal_table(found)).split("| operation | goal beyond these |")
    beyond = [goal for goal in goals.GOALS if goal.beyond]
    assert {goal.label for goal in beyond} == {pingpong.BY_KEPT_HANDOFF}
    assert f"2 of {len(goals.GOALS) - len(beyond)} goals are met." in first
    assert f"2 of {len(beyond)} goals beyond these are met." in second
    assert pingpong.BY_KEPT_HANDOFF not in first


def test_a_missed_goal_is_explained():
    results = Results.read(command.FOLDER / "results.json")
    table = Table(results.rows)
    unmet = [verdict.goal for verdict in goals.verdicts(table) if verdict.met is False]
    assert {missed.key(goal) for goal in unmet} <= set(missed.WHY)
    text = "\n".join(report.report(results))
    for goal in unmet:
        assert missed.why(goal, table) in text
    text = "\n".join(report.report(made_up()))
    assert "### to(torch) again, <= 100 ns\n\nNobody has looked into it yet." in text
    assert "### query" not in text  # met


def test_an_explanation_is_of_one_goal_and_has_the_figures_of_the_run():
    keys = [missed.key(goal) for goal in goals.GOALS]
    assert len(set(keys)) == len(keys)
    assert set(missed.WHY) <= set(keys)
    rows = [
        row(operation, label, [500]) for operation in ("query", "synchronize") for label in (C, "CuPy", "cuda.core")
    ]
    rows += [row("query", OURS, [777]), row("synchronize", OURS, [888]), row("wait_stream", OURS, [222])]
    rows += [row(f"handoff, {way}, again", OURS, [333]) for way in ("CuPy to Numba", "Numba to CuPy")]
    rows += [row("CuPy <-> Numba", label, [9999], group="ping-pong") for label in pingpong.WAYS]
    table = Table(rows)
    texts = {missed.key(goal): missed.why(goal, table) for goal in goals.GOALS if missed.key(goal) in missed.WHY}
    for text in texts.values():
        assert not re.search(r"[{}]", text)
    assert "777 ns, and C's 500 ns: 277 ns more." in texts["query", C, OURS]
    assert "888 ns, and cuda.core's 500 ns: 388 ns more." in texts["synchronize", "cuda.core", OURS]
    assert "not explained" in texts["synchronize", "cuda.core", OURS]
    assert "not explained" not in texts["query", "CuPy", OURS]
    assert "by itself takes 222 ns" in texts["CuPy <-> Numba", pingpong.SHARED, pingpong.BY_WAIT]
    assert "these two take 666 ns" in texts["CuPy <-> Numba", pingpong.DEFAULT, pingpong.BY_KEPT_HANDOFF]


def test_where_others_are_ahead():
    times = {
        "wait_event": {C: 100, OURS: 120, "CuPy": 130},
        "wait_event, CuPy's event": {C: 100, OURS: 500},
        "synchronize": {OURS: 120, "torch": 119, "CuPy": 121},
    }
    rows = [row(name, label, [ns]) for name, of in times.items() for label, ns in of.items()]
    for size, ns in (1, 60), (16, 600):
        found = (row(growth.IN_THREADS, label, [ns * times]) for label, times in ((C, 1), (OURS, 2)))
        rows += [replace(one, size=size, group="growth") for one in found]
    text = "\n".join(report.report(Results(rows=rows))).partition("## Where others are ahead")[2]
    assert "| wait_event, CuPy's event | 500 ns | CuPy 130 ns |" in text
    assert "| synchronize | 120 ns | torch 119 ns |" in text
    assert "| wait_event |" not in text
    assert "of all the threads: C 60 ns and 600 ns, interop 120 ns and 1,200 ns." in text
    assert "with 16 threads its figure is 10.00 times that of 1, where it would be 1/16 if they did not." in text


def test_every_goal_is_about_something_that_is_measured(tmp_path):
    rows = {(o.name, row.label) for o in all_operations(Lab(tmp_path)) for row in o.rows}
    for goal in goals.GOALS:
        assert (goal.operation, goal.label) in rows
        assert goal.against is None or (goal.operation, goal.against) in rows
    assert set(report.SHORT) <= {operation for operation, _ in rows}


def test_the_picture(tmp_path):
    for name in ("a.svg", "b.svg"):
        plot.draw(made_up(), tmp_path / name)
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_interop_is_seen_in_the_picture_where_others_are_as_fast():
    calls, streams = Figure().subplots(1, 2)
    plot._calls(calls, Table(made_up(0.5).rows))
    plot._growth(streams, made_up(), "wait_stream, of many streams", "")
    drawn = {container.get_label(): container.lines[0] for container in calls.containers}
    others = [drawn["torch"].get_zorder(), *(line.get_zorder() for line in streams.lines if line.get_label() != OURS)]
    for ours in (drawn[OURS], *(line for line in streams.lines if line.get_label() == OURS)):
        assert ours.get_zorder() > max(others)
        assert ours.get_markerfacecolor() == "none"
    # And there is something to read it from where it is faster than C.
    low, high = calls.get_xlim()
    assert low < 0.6 < high < 20
    assert {0.5, 1, 2, 5, 10} <= set(calls.get_xticks())


def test_the_picture_of_hardly_anything(tmp_path):
    plot.draw(Results(rows=[row(label=C), row()]), tmp_path / "a.svg")
    assert list(report.report(Results()))


def write(tmp_path, name, results):
    results.write(tmp_path / name)
    return str(tmp_path / name)


@pytest.mark.parametrize(("slower", "status"), [(1.0, 0), (0.5, 0), (1.05, 0), (1.3, 1)])
def test_compare(tmp_path, slower, status, capsys):
    before, after = write(tmp_path, "a.json", made_up()), write(tmp_path, "b.json", made_up(slower))
    assert command.main(["compare", before, after]) == status
    assert ("30% slower" in capsys.readouterr().out) == bool(status)
    assert command.main(["compare", before, after, "--tolerance", "0.5"]) == 0


def test_compare_finds_what_is_slower_everywhere():
    before, after = (Results.read(command.FOLDER / "results.json") for _ in range(2))
    for results in (before, after):
        results.startup = made_up().startup
    assert not [change for change in compare.compare(before, after) if change.problem]
    for measured in (*after.rows, *after.other):
        if measured.label.startswith(OURS):
            measured.ns = [1.12 * ns for ns in measured.ns]
    changes = [change for change in compare.compare(before, after) if change.before and "nothing" not in change.name]
    slower = [change for change in changes if change.problem == "12% slower"]
    assert len(changes) > 100
    assert len(slower) > 0.9 * len(changes)


def test_compare_looks_at_imports_and_first_calls():
    before, after = made_up(), made_up()
    before.startup[0]["seconds"] = [0.0050, 0.0051, 0.0052]
    after.startup[0]["seconds"] = [0.0060, 0.0061, 0.0062]
    peer = {"what": "import CuPy", "after": "nothing", "seconds": [1]}
    before.startup.append(peer)
    after.startup.append({**peer, "seconds": [2]})
    (change,) = [change for change in compare.compare(before, after) if change.problem]
    assert (change.name, change.problem) == ("import interop, nothing", "20% slower")
    assert change.after == pytest.approx((6.0, 6.1, 6.2))
    after.startup.clear()
    (change,) = [change for change in compare.compare(before, after) if change.problem]
    assert change.problem == "not measured any more"


def test_compare_says_what_it_does_not_compare(tmp_path, capsys):
    alone = made_up()
    alone.rows = [r for r in alone.rows if r.label != C or r.operation != "query"]
    paths = [write(tmp_path, name, alone) for name in ("a.json", "b.json")]
    assert command.main(["compare", *paths]) == 0
    assert "1 are not compared" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("the GPU", {"gpu": "GPU 9001"}),
        ("the CPU", {"cpu": "other"}),
        ("the driver", {"driver": "1.3"}),
        ("Python", {"python": "3.13.1"}),
        ("torch", {"versions": {"torch": "3", "pytest": "9"}}),
    ],
)
def test_compare_refuses_another_machine(name, other, tmp_path, capsys):
    before, after = made_up(), made_up()
    before.machine |= {"python": "3.12.3", "versions": {"torch": "2", "pytest": "8"}}
    after.machine |= {"python": "3.12.9", "versions": {"torch": "2", "pytest": "9"}}
    paths = [write(tmp_path, "a.json", before), write(tmp_path, "b.json", after)]
    assert command.main(["compare", *paths]) == 0
    after.machine |= other
    write(tmp_path, "b.json", after)
    capsys.readouterr()
    assert command.main(["compare", *paths]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{name} was " in line
    assert "--other-machine" in line
    assert command.main(["compare", *paths, "--other-machine"]) == 0
    assert f"note: {name} was " in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        None,
        "not JSON",
        "[]",
        "{}",
        '{"rows": [], "other": [], "colour": "red"}',
        '{"rows": [{"colour": "red"}], "other": []}',
        '{"rows": 7, "other": []}',
        '{"rows": [], "other": [], "machine": 7}',
        '{"rows": [], "other": [], "startup": [7]}',
        '{"rows": [], "other": [], "startup": [{"what": "import interop", "after": "nothing"}]}',
    ],
)
def test_a_file_without_results(text, tmp_path, capsys):
    path = tmp_path / "bad.json"
    if text is not None:
        path.write_text(text)
    good = write(tmp_path, "good.json", made_up())
    for arguments in (["compare", str(path), good], ["compare", good, str(path)], ["report", str(path)]):
        assert command.main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(path) in line
        assert "make bench" in line


@pytest.mark.parametrize("ns", [["1"], [0], [-1.0], [float("nan")], [float("inf")], 7])
def test_times_that_are_none(ns, tmp_path):
    results = made_up()
    results.rows[0].ns = ns
    results.write(tmp_path / "a.json")
    with pytest.raises(NotResultsError, match="TypeError"):
        Results.read(tmp_path / "a.json")


@pytest.mark.parametrize("tolerance", ["nan", "-0.1", "inf"])
def test_a_tolerance_that_is_none(tolerance, tmp_path, capsys):
    path = write(tmp_path, "a.json", made_up())
    assert command.main(["compare", path, path, "--tolerance", tolerance]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--tolerance {tolerance}: give" in line


def test_compare_takes_scatter_for_what_it_is():
    before, after = made_up(), made_up()
    scattered = [100 * 1.0, 110 * 1.1, 120 * 1.6, 130 * 2.0]
    after.rows = [
        replace(r, ns=scattered) if r.label == OURS and r.operation == "wait_stream" else r for r in after.rows
    ]
    assert compare.compare(before, after)
    assert not [
        change for change in compare.compare(before, after) if change.name.startswith("wait_stream:") and change.problem
    ]


def test_compare_misses_what_is_gone(tmp_path, capsys):
    after = made_up()
    after.rows = [
        replace(r, ns=[], error="broken") if r.operation == "query" and r.label == OURS else r for r in after.rows
    ]
    problems = {change.problem for change in compare.compare(made_up(), after)}
    assert problems == {"", "not measured any more"}
    empty = write(tmp_path, "empty.json", Results())
    assert command.main(["compare", empty, empty]) == 2
    assert f"{empty} has nothing" in capsys.readouterr().err


def test_compare_compares_like_with_like():
    """What went the Python way before goes into the other column when there is a native one."""
    before, after = made_up(), made_up(0.5)
    after.path, after.other = "native", made_up(2.0).rows
    after.startup = before.startup
    assert {change.name for change in compare.compare(before, after) if change.problem} == {
        "query: interop (Python)",
        "wait_stream: interop (Python)",
    }


def test_the_report_is_made_again(tmp_path, capsys):
    path = write(tmp_path, "a.json", made_up())
    assert command.main(["report", path]) == 0
    assert (tmp_path / "a.md").read_text() == capsys.readouterr().out
    assert (tmp_path / "a.svg").exists()


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.needs("no_gpu")
def test_without_a_gpu(tmp_path, capfd):
    assert command.main(["run", "--quick", "--out", str(tmp_path / "r.json")]) == 2
    assert "need a GPU" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("complete", [True, False])
def test_a_run(tmp_path, monkeypatch, complete, capsys):
    """The whole command, with processes that have written what they would."""
    commands = []

    def process_that_writes(command, env, **_):
        commands.append((command, env["INTEROP_NATIVE"]))
        lines = [{"kind": "machine", **made_up().machine}, *({"kind": "row", **vars(r)} for r in made_up().rows)]
        if complete:
            way = "native" if env["INTEROP_NATIVE"] == "1" else "Python"
            lines.append({"kind": "end", "path": way, "cudart": "libcudart", "interop_sha256": "abc"})
        Path(command[3]).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return subprocess.CompletedProcess(command, 0 if complete else -11)

    monkeypatch.setattr(command, "has_native", lambda: True)
    monkeypatch.setattr(command.subprocess, "run", process_that_writes)
    out = tmp_path / "r.json"
    assert command.main(["run", "--only", "wait", "--out", str(out)]) == (0 if complete else 1)
    results = Results.read(out)
    assert [native for _, native in commands] == ["1", "0"]
    assert ["--ours-only" in line for line, _ in commands] == [False, True]
    assert results.path == "native"
    assert results.rows == results.other == made_up().rows
    assert len(results.problems) == (0 if complete else 2)
    assert results.machine.get("interop_sha256") == ("abc" if complete else None)
    assert ("Not measured" in capsys.readouterr().out) or complete


def test_startup(monkeypatch):
    monkeypatch.setattr(startup, "IMPORTS", {"interop": "interop", "nothing": "no_such_module"})
    ours, nothing, *first_calls = startup.measure(1, {"INTEROP_NATIVE": "0"})
    assert ours["what"] == "import interop"
    assert len(ours["seconds"]) == 3
    assert all(0 < seconds < 10 for seconds in ours["seconds"])
    assert nothing["error"] == "ModuleNotFoundError: No module named 'no_such_module'"
    assert [row["what"] for row in first_calls] == list(startup.FIRST_CALLS)


def test_the_benchmarks_have_a_sum_of_their_own():
    """As `find` and `sha256sum` make it."""
    writers = " ".join(f"! -name {name}" for name in ("compare.py", "missed.py", "plot.py", "report.py"))
    files = rf"find benchmarks -maxdepth 1 -type f \( -name '*.py' -o -name '*.c' \) {writers} -print0"
    line = f"{files} | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=command.FOLDER.parent)
    assert done.stdout.split()[0] == process.benchmarks_sha256()


def test_the_calls_whose_instructions_are_counted(stubs):
    code = (
        "import ctypes, json, sys; from benchmarks import instructions; "
        f"instructions.run(ctypes.CDLL({stubs._name!r})); print(json.dumps(sorted(instructions.CALLS)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == sorted(instructions.CALLS)


def test_instructions_are_counted():
    try:
        counts, opened = (instructions.count({"INTEROP_NATIVE": "0"}, ledger=is_open) for is_open in (False, True))
    except (instructions.ValgrindMissingError, baseline.CompilerMissingError) as error:
        pytest.skip(str(error))
    assert list(counts) == list(instructions.CALLS)
    assert 100 < counts["as_stream, of one of ours"] < counts["wait_event"] < counts["wait_stream"] < 100_000
    assert all(opened[call] > 1.5 * counts[call] for call in ledger.CALLS)
    assert opened["as_stream, of one of ours"] == pytest.approx(counts["as_stream, of one of ours"], rel=0.1)


@pytest.mark.skipif(native is None, reason=why_not)
def test_calls_by_the_extension_take_few_instructions():
    try:
        counts = instructions.count({"INTEROP_NATIVE": "1"})
    except (instructions.ValgrindMissingError, baseline.CompilerMissingError) as error:
        pytest.skip(str(error))
    most = {"record, new event": 1600, "as_stream, of one of ours": 800}
    assert {call: taken for call, taken in counts.items() if not 50 < taken < most.get(call, 1000)} == {}


# -- what the ledger costs -------------------------------------------------------------------------------------------

TOLD = """
import ctypes, json, sys
from benchmarks import instructions
from interop import _watch

class Notes(_watch.Watcher):
    told = set()
    def recorded(self, *_): self.told.add("recorded")
    def waited(self, *_): self.told.add("waited")
    def joined(self, *_): self.told.add("joined")
    def finished(self, *_): self.told.add("finished")

_watch.watch(Notes())
instructions.run(ctypes.CDLL(sys.argv[1]))
print(json.dumps([instructions.__file__, sorted(Notes.told)]))
"""


@pytest.mark.parametrize("native", ["0", "1"])
@pytest.mark.parametrize("looks", [True, False])
def test_the_build_without_the_looks_tells_nobody(looks, native, stubs, tmp_path):
    folder = ledger.build(tmp_path / "built", looks=looks)
    done = subprocess.run(
        [sys.executable, "-c", TOLD, stubs._name],
        env={**os.environ, "INTEROP_NATIVE": native, "PYTHONPATH": ""},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    path, told = json.loads(done.stdout)
    assert Path(path).is_relative_to(folder)
    assert told == (["finished", "joined", "recorded", "waited"] if looks else [])


def test_a_look_that_is_not_where_it_was():
    text = (ledger._ROOT / "interop/event.py").read_text()
    assert ledger.without_looks("event.py", text) != text
    for changed in (text.replace("watchers:", "watchers :"), text + text, text + "_watch.watchers"):
        with pytest.raises(ValueError, match=r"event\.py has"):
            ledger.without_looks("event.py", changed)


def test_the_ledger_on_a_gpu_is_only_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ledger, "RECORD", tmp_path / "ledger.json")
    monkeypatch.setattr(ledger, "times", lambda number: {"query": {"closed": 1.0, "open": float(number)}})
    assert command.main(["ledger", "--gpu"]) == 0
    assert "2,000" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_the_record_of_the_ledger(tmp_path, monkeypatch, capsys):
    """The whole command, with made-up counts."""

    def made_up_count(environment, folder, *, ledger=False):
        looks = "_watch.watchers" in (folder / "interop/stream.py").read_text()
        one = 100 * (2 - int(environment["INTEROP_NATIVE"])) * (10 if ledger else 1) + looks
        return dict.fromkeys(instructions.CALLS, one + 0.4)

    monkeypatch.setattr(instructions, "count", made_up_count)
    monkeypatch.setattr(ledger, "RECORD", tmp_path / "ledger.json")
    try:
        assert command.main(["ledger"]) == 0
    except baseline.CompilerMissingError as error:
        pytest.skip(str(error))
    record = json.loads((tmp_path / "ledger.json").read_text())
    assert record["instructions"] == {
        "native": {call: {"closed": 101, "without the look": 100, "open": 1001} for call in ledger.CALLS},
        "Python": {call: {"closed": 201, "without the look": 200, "open": 2001} for call in ledger.CALLS},
    }
    assert all(0 < of["closed"] < of["open"] for of in record[ledger.TIMES].values())
    assert "1,001" in capsys.readouterr().out
    record[ledger.TIMES] = {"query": {"closed": 40.0, "open": 100.0}}
    (tmp_path / "benchmarks").mkdir()
    for code in (record["interop_sha256"], "another"):
        changed = {**record, "compiler": "cc", "date": "today", "interop_sha256": code}
        (tmp_path / "benchmarks/ledger.json").write_text(json.dumps(changed))
        cost, counts = (
            update.updated(f"<!-- {name} -->\n<!-- /{name} -->", tmp_path) for name in ("ledger-cost", "instructions")
        )
        assert "| query | 1.010 | 1.005 | 9.9 | 10.0 | 2.5 |\n\n(Python " in cost
        assert "`query` is 101 instructions and `wait_stream` 101; without the extension\n201 and 201, not" in counts
        for text in (cost, counts):
            assert ("The code has been changed since" in text) is (code == "another")
