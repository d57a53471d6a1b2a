"""The recorder, behind a libcupti that is made for the tests."""

import ctypes
import functools
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from interop._native import native
from interop.ledger.driver.cupti import EyeShut
from interop.ledger.driver.recorder import Recorder
from tests.threads import in_thread, in_threads

SOURCE = Path(__file__).with_name("fake_cupti.c")
COMPILER = shutil.which("gcc") or shutil.which("cc")
pytestmark = pytest.mark.skipif(native is None or not COMPILER, reason="needs the extension in C, and a C compiler")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    target = tmp_path_factory.mktemp("cupti") / "libfake.so"
    subprocess.run([COMPILER, "-std=c11", "-shared", "-fPIC", "-o", target, SOURCE], check=True)
    return str(target)


@pytest.fixture
def fake(built):
    library = ctypes.CDLL(built)
    for name, value in (("taken", 0), ("shared", 130001), ("without", 0)):
        ctypes.c_int.in_dll(library, name).value = value
    return library


@pytest.fixture
def recorder(fake, built):
    found = Recorder(built, driver=built)
    found.open()
    yield found
    found.close()


def fire(fake, name, parameters=b"", result=0, symbol=None):
    return fake.fire(name.encode(), parameters, result, symbol and symbol.encode())


def words(*values):
    return struct.pack(f"={len(values)}Q", *values)


def launch(fake, kernel, stream, *parameters, suffix="", symbol="a kernel"):
    buffers = [ctypes.create_string_buffer(data, len(data)) for data in parameters]
    pointers = (ctypes.c_void_p * len(buffers))(*map(ctypes.addressof, buffers))
    fire(
        fake, "cuLaunchKernel" + suffix, words(kernel, 0, 0, 0, 0, stream, ctypes.addressof(pointers), 0), symbol=symbol
    )


def test_a_launch_has_all_its_parameters(recorder, fake):
    launch(fake, 16, 0x200, words(0xABC000), struct.pack("=I", 5), words(1, 2, 3))
    launch(fake, 32, 0, words(0xDEF000), symbol="another")
    launch(fake, 48, 0, words(1), suffix="_ptsz")
    first, second, third = recorder.calls()
    assert (first.kind, first.name, first.symbol, first.walked) == ("launch", "cuLaunchKernel", "a kernel", True)
    assert first.words == ((0, 0xABC000), (16, 1), (24, 2), (32, 3))
    assert (first.stream, first.non_blocking, first.context) == (0x200, True, 7)
    assert (second.stream, second.symbol, second.words) == (1, "another", ((0, 0xDEF000),))
    assert (third.stream, third.walked, third.words) == (2, False, ())


def test_a_launch_with_its_parameters_in_a_buffer(recorder, fake):
    data = ctypes.create_string_buffer(words(11, 12), 16)
    size = ctypes.c_size_t(16)
    extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(data), 2, ctypes.addressof(size), None)
    fire(fake, "cuLaunchKernel", words(48, 0, 0, 0, 0, 0, 0, ctypes.addressof(extra)))
    (call,) = recorder.calls()
    assert (call.walked, call.words) == (True, ((0, 11), (8, 12)))


def test_a_kernel_is_asked_for_again_after_a_module_is_gone(recorder, fake):
    launch(fake, 32, 0, words(1), symbol="before")
    fire(fake, "cuModuleUnload", words(9))
    launch(fake, 32, 0, words(1), symbol="after")
    assert [call.symbol for call in recorder.calls()] == ["before", "after"]


def test_what_each_kind_of_call_tells(recorder, fake):
    made = ctypes.c_uint64(0x5000)
    pointer = ctypes.addressof(made)
    for name, parameters in (
        ("cuMemcpyAsync", words(10, 20, 30, 0x200)),
        ("cuMemcpy", words(10, 20, 30)),
        ("cuMemsetD8Async", words(10, 1, 30, 0x300)),
        ("cuMemsetD2D32Async", words(10, 100, 0, 4, 3, 0x200)),
        ("cuEventRecord", words(77, 0x200)),
        ("cuStreamWaitEvent", words(0x200, 77, 0)),
        ("cuStreamQuery", words(0x200)),
        ("cuMemAlloc_v2", words(pointer, 64)),
        ("cuStreamCreate", words(pointer, 1)),
    ):
        fire(fake, name, parameters)
    found = [(c.kind, c.stream, c.a, c.b, c.c, c.d) for c in recorder.calls()]
    assert found == [
        ("copy", 0x200, 10, 20, 30, 30),
        ("host copy", 1, 10, 20, 30, 30),
        ("set", 0x300, 10, 0, 30, 0),
        ("set", 0x200, 10, 0, 216, 0),
        ("record", 0x200, 77, 0, 0, 0),
        ("wait", 0x200, 77, 0, 0, 0),
        ("stream done", 0x200, 0, 0, 0, 0),
        ("alloc", 0, 0x5000, 0, 64, 0),
        ("stream made", 0, 0x5000, 1, 0, 0),
    ]


def test_a_call_that_fails_is_not_recorded_but_what_ends_something_is_recorded_when_it_begins(recorder, fake):
    fire(fake, "cuEventRecord", words(77, 0x200), result=400)
    fire(fake, "cuStreamQuery", words(0x200), result=600)
    fire(fake, "cuMemFree_v2", words(5), result=1)
    fire(fake, "cuStreamDestroy_v2", words(6))
    assert [(call.kind, call.a) for call in recorder.calls()] == [("free", 5), ("stream gone", 6)]


def test_a_stream_that_captures(recorder, fake):
    fire(fake, "cuEventRecord", words(1, 0x300))
    fire(fake, "cuStreamBeginCapture_v2", words(0x300, 0))
    fire(fake, "cuEventRecord", words(2, 0x300))
    fire(fake, "cuEventRecord", words(3, 0x200))
    fire(fake, "cuStreamEndCapture", words(0x300, 0))
    fire(fake, "cuEventRecord", words(4, 0x300))
    assert {call.a: call.capturing for call in recorder.calls() if call.kind == "record"} == {
        1: False, 2: True, 3: False, 4: False
    }  # fmt: skip


def test_no_call_is_lost_and_all_are_in_order(recorder, fake):
    """More than the buffers hold, from eight threads, read in parts."""
    found, ended = [], []

    def work(number):
        for i in range(3000):
            fire(fake, "cuEventRecord", words(number, 0x200 + i))
        ended.append(number)

    def read():
        while len(ended) < 8:
            found.extend(recorder.calls())

    in_threads(read, *(functools.partial(work, number) for number in range(8)))
    found += recorder.calls()
    assert [call.number for call in found] == sorted(call.number for call in found)
    for number in range(8):
        mine = [call for call in found if call.a == number]
        assert [call.stream for call in mine] == [0x200 + i for i in range(3000)]
        assert len({call.thread for call in mine}) == 1
    assert recorder.lost == 0


def test_the_lines_of_python_come_with_the_gil_and_without_it(recorder, fake, built):
    held = ctypes.PyDLL(built)

    def inner(library):
        library.fire(b"cuEventRecord", words(1, 0x200), 0, None)

    def outer(library):
        inner(library)

    outer(fake)
    outer(held)
    in_thread(lambda: outer(fake))
    first = inner.__code__.co_firstlineno
    for call in recorder.calls():
        code, line = call.place[0]
        assert (code, line) == (inner.__code__, first + 1)
        assert call.place[1] == (outer.__code__, outer.__code__.co_firstlineno + 1)
    assert recorder.has_lines


def test_a_code_that_is_gone_has_no_line(recorder, fake):
    made = {"fire": fire, "fake": fake, "words": words}
    exec("def passing():\n    fire(fake, 'cuEventRecord', words(1, 0x200))", made)
    made.pop("passing")()
    (call,) = recorder.calls()
    assert all(code.co_name != "passing" for code, _ in call.place)
    assert call.place[0][0] is fire.__code__


def test_machine_code_is_kept(recorder, fake):
    small, large = b"one" * 5, os.urandom(700_001)
    for code in (small, large):
        fake.load_module(code, ctypes.c_size_t(len(code)))
    assert [recorder.module(call.a) for call in recorder.calls()] == [small, large]


def test_the_calls_since_a_mark_are_given_to_others_too(recorder, fake):
    launch(fake, 32, 0, words(1))
    mark = recorder.mark()
    launch(fake, 32, 0, words(2))
    for _ in range(2):
        assert [(call.symbol, call.words[0][1], bool(call.place)) for call in recorder.since(mark)] == [
            ("a kernel", 2, True)
        ]
    assert [call.words[0][1] for call in recorder.calls()] == [1, 2]
    assert list(recorder.calls()) == []


def test_one_recorder_is_open_at_a_time(recorder, built):
    with pytest.raises(EyeShut, match="open already"):
        Recorder(built, driver=built).open()


def test_a_note_of_python_stands_between_the_calls(recorder, fake):
    fire(fake, "cuEventRecord", words(1, 0x200))
    recorder.note("pool alloc", 0x200, a=5, c=64)
    fire(fake, "cuEventRecord", words(2, 0x200))
    assert [(call.kind, call.a, call.c) for call in recorder.calls()] == [
        ("record", 1, 0),
        ("pool alloc", 5, 64),
        ("record", 2, 0),
    ]


def test_after_close_nothing_is_recorded_and_what_was_can_be_read(recorder, fake):
    fire(fake, "cuEventRecord", words(1, 0x200))
    recorder.close()
    assert not fire(fake, "cuEventRecord", words(2, 0x200))
    assert [call.a for call in recorder.calls()] == [1]
    recorder.close()


def test_a_second_recorder_starts_anew(recorder, fake, built):
    launch(fake, 32, 0, words(1))
    recorder.close()
    second = Recorder(built, driver=built)
    second.open()
    launch(fake, 32, 0, words(2))
    second.close()
    assert [(call.symbol, call.words[0][1], bool(call.place)) for call in second.calls()] == [("a kernel", 2, True)]


@pytest.mark.parametrize(("what", "why"), [("taken", "somebody else"), ("without", "does not know cuLaunchKernel")])
def test_the_eye_stays_shut(fake, built, what, why):
    ctypes.c_int.in_dll(fake, what).value = 1
    recorder = Recorder(built, driver=built)
    with pytest.raises(EyeShut, match=why) as error:
        recorder.open()
    assert error.value.way_out
    assert not fire(fake, "cuEventRecord", words(1, 0x200))
    assert list(recorder.calls()) == []


def test_without_a_driver_the_eye_stays_shut(built):
    with pytest.raises(EyeShut, match="driver cannot be asked"):
        Recorder(built, driver="libno_such_driver.so").open()


def test_a_later_cupti_is_shared_with_others(fake, built):
    ctypes.c_int.in_dll(fake, "shared").value = 130300
    recorder = Recorder(built, driver=built)
    recorder.open()
    assert fire(fake, "cuEventRecord", words(1, 0x200))
    recorder.close()


def in_a_process(built, code):
    before = f"""
import ctypes, os, resource, sys
from interop.ledger.driver.recorder import Recorder
fake = ctypes.CDLL({built!r})
recorder = Recorder({built!r}, driver={built!r})
record = (8).to_bytes(8, "little") + (0x200).to_bytes(8, "little")
"""
    done = subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_full_disk_is_told(built):
    code = """
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19))
recorder.open()
fake.fire_many(b"cuEventRecord", record, 20000)
print(len(list(recorder.calls())), recorder.lost)
"""
    found, lost = map(int, in_a_process(built, code))
    assert 0 < found < 20000
    assert lost > 0


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "os._exit(0)", "recorder.close()"])
def test_a_process_ends_as_it_would_without(built, end):
    code = f"""
recorder.open()
fake.fire_many(b"cuEventRecord", record, 100)
print("end", flush=True)
{end}
"""
    assert in_a_process(built, code) == ["end"]


def test_a_forked_process_leaves_the_file_alone(built):
    code = """
recorder.open()
fake.fire_many(b"cuEventRecord", record, 100)
child = os.fork()
if not child:
    fake.fire_many(b"cuEventRecord", record, 10000)
    sys.exit(0)
_, status = os.waitpid(child, 0)
fake.fire_many(b"cuEventRecord", record, 100)
print(status, len(list(recorder.calls())), recorder.lost)
"""
    assert in_a_process(built, code) == ["0", "200", "0"]
