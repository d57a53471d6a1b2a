"""The kernels whose code was seen: cubins, PTX, ``nvdisasm``, and the answers that are kept on disk."""

import dataclasses
import json
import sys

import pytest

from interop._order.findings import Kind
from interop.ledger.kernels import Access, Kernels, seen
from interop.ledger.kernels.cache import Cache
from interop.ledger.kernels.cubin import Cubin, nvdisasm
from tests.ledger.kernels.truth import TRUTH, cautious, false, fixture, missed

READ, MAYBE, WRITE = Kind.READ, Kind.MAYBE, Kind.WRITE
PTX = """.version 8.0
.target sm_90
.address_size 64
.visible .entry copy(.param .u64 a, .param .u64 b)
{
.reg .b64 %rd<3>;
ld.param.u64 %rd1, [a];
st.global.u32 [%rd1], 0;
ret;
}
"""


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "interop" / "kernels"


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """A tool that prints the code that the real one printed; how often it ran."""
    (tmp_path / "code").write_bytes(fixture("sm_90.sass"))
    tool = tmp_path / "nvdisasm"
    tool.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\n"
        f"open({str(tmp_path / 'log')!r}, 'a').write(sys.argv[3] + '\\n')\n"
        "assert sys.argv[1:3] == ['-c', '-fun'] and pathlib.Path(sys.argv[4]).read_bytes()[:4] == b'\\x7fELF'\n"
        f"sys.stdout.write(open({str(tmp_path / 'code')!r}).read())\n"
    )
    tool.chmod(0o755)
    monkeypatch.setattr(seen, "nvdisasm", lambda: str(tool))
    return lambda: (tmp_path / "log").read_text().split() if (tmp_path / "log").exists() else []


@pytest.fixture(scope="module")
def image():
    return fixture("sm_90.cubin")


def kernels_of(*images):
    kernels = Kernels()
    for one in images:
        kernels.add_module(one)
    return kernels


def changed(image, kernel):
    """The same cubin with another code of one kernel."""
    cubin = Cubin(image)
    code = cubin._content(f".text.{kernel}")
    return image.replace(code, code[:-1] + bytes([code[-1] ^ 1]))


def test_a_cubin_tells_its_kernels_and_their_parameters(image):
    cubin = Cubin(image)
    assert cubin.kernels.keys() == TRUTH.keys()
    frame = cubin.frame("struct_mixed")
    assert (frame.base, frame.size, frame.parameters) == (0x210, 32, (0,))
    assert cubin.frame("copy_bytes").parameters == (0, 8, 16)
    assert cubin.frame("prints").harmless
    assert Cubin(fixture("sm_75.cubin")).frame("copy").base == 0x160
    assert Cubin(fixture("sm_100.cubin")).frame("copy").base == 0x380


def test_a_call_of_another_function_by_its_address_is_not_harmless(image):
    assert not Cubin(image.replace(b"\0vprintf\0", b"\0vpr1ntf\0")).frame("prints").harmless


@pytest.mark.parametrize("cut", [0, 3, 4, 100, 5000, -1000])
def test_what_is_no_cubin_has_no_kernels(image, cut):
    assert Cubin(image[:cut]).kernels == {}
    assert kernels_of(b"PTX", image[:cut]).access("copy") is None


def test_a_kernel_is_read_once_and_kept_for_the_next_run(image, asked):
    kernels = kernels_of(image)
    assert asked() == []
    found = kernels.access("copy")
    assert (found.of(0), found.of(8), found.why) == (WRITE, READ, "")
    assert found.parameters == (0, 8)
    assert kernels.access("copy") is found
    assert asked() == [str(Cubin(image).kernels["copy"])]
    assert kernels_of(image).access("copy") == found
    assert len(asked()) == 1


def test_a_kernel_that_was_not_seen_is_none(image):
    kernels = kernels_of(image)
    assert kernels.access("another") is None
    kernels.add_ptx(PTX.replace("copy", "another"))
    assert kernels.access("another").of(0) is WRITE


def test_ptx_is_read_instead_of_the_code_made_of_it(image, asked):
    kernels = kernels_of(image, image)
    kernels.add_ptx(PTX)
    assert (kernels.access("copy").of(0), kernels.access("copy").of(8)) == (WRITE, None)
    assert asked() == []


def test_kernels_of_one_name_are_taken_for_what_any_of_them_does(image, asked):
    kernels = kernels_of(image)
    kernels.add_ptx(PTX)
    assert kernels.access("copy").of(8) is None
    kernels.add_module(changed(image, "copy"))
    assert kernels.access("copy").of(8) is READ
    kernels.add_ptx(PTX.replace("[a]", "[b]"))
    found = kernels.access("copy")
    assert (found.of(0), found.of(8)) == (MAYBE, MAYBE)
    assert found.why == "several kernels have this name"
    assert len(asked()) == 2


def test_without_the_tool_all_may_be_written(image, monkeypatch, folder):
    monkeypatch.setattr(seen, "nvdisasm", lambda: None)
    found = kernels_of(image).access("copy")
    assert (found.of(0), found.of(8)) == (MAYBE, MAYBE)
    assert "nvidia-cuda-nvdisasm" in found.why
    assert not folder.exists()


def test_a_tool_that_fails_is_told(image, monkeypatch, tmp_path):
    tool = tmp_path / "nvdisasm"
    tool.write_text("#!/bin/sh\necho 'fatal: no such target' >&2\nexit 3\n")
    tool.chmod(0o755)
    monkeypatch.setattr(seen, "nvdisasm", lambda: str(tool))
    found = kernels_of(image).access("copy")
    assert found.of(0) is MAYBE
    assert found.why == "nvdisasm cannot read its machine code: fatal: no such target"
    tool.write_text("#!/bin/sh\n")
    assert kernels_of(image).access("copy").why == "nvdisasm shows no machine code of it"
    code = '\t.section\t.text.copy,"ax"\n        /*0000*/    IMAD.WIDE R2, R3 ;\n'
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{code}END\n")
    assert "form that is not known" in kernels_of(image).access("copy").why


def test_a_file_of_the_cache_that_is_broken_is_none(image, asked, folder):
    found = kernels_of(image).access("copy")
    [file] = folder.iterdir()
    for content in ("", "[1, 2", "[]", "null", json.dumps([[0], [], [], 0, False, "", []]), '["a"]', "\0"):
        file.write_text(content)
        assert kernels_of(image).access("copy") == found
    assert len(asked()) == 8
    assert kernels_of(image).access("copy") == found
    assert len(asked()) == 8


def test_the_cache_gives_what_was_put(folder):
    access = Access(frozenset({0}), frozenset({8}), frozenset({16}), every=True, why="why", parameters=(0, 8, 16))
    Cache().put("digest", access)
    assert Cache().get("digest") == access
    assert Cache().get("other") is None
    Cache().put("digest", dataclasses.replace(access, why=""))
    assert Cache().get("digest").why == ""
    assert len(list(folder.iterdir())) == 1


def test_a_cache_that_cannot_be_written_keeps_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    Cache().put("digest", Access())
    assert Cache().get("digest") is None


def test_the_tool_is_found_in_a_wheel(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia" / "cu13" / "bin" / "nvdisasm"
    tool.parent.mkdir(parents=True)
    tool.write_text("")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    find = nvdisasm.__wrapped__
    assert find() != str(tool)
    tool.chmod(0o755)
    assert find() in (str(tool), "/usr/local/cuda/bin/nvdisasm")


def test_with_the_real_tool(image):
    if nvdisasm() is None:
        pytest.skip("nvdisasm is not installed")
    kernels = kernels_of(image)
    found = {name: kernels.access(name) for name in ("copy", "selects", "tensors", "prints", "scatter", "calls_twice")}
    assert not missed(found)
    assert not false(found)
    assert not cautious(found)
