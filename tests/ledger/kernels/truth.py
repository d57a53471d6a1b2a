"""The kernels of ``kernels.cu``: what each does, and the fixtures that were compiled from them.

``python -m tests.ledger.kernels.truth`` makes the fixtures anew. It needs NVRTC and ``nvdisasm``, and no GPU.
"""

import lzma
import re
import subprocess
import tempfile
from pathlib import Path

from interop._order.findings import Kind
from interop.ledger.kernels.cubin import nvdisasm

HERE = Path(__file__).parent
FIXTURES = HERE / "fixtures"
ARCHITECTURES = (75, 80, 90, 100)
KINDS = {"W": Kind.WRITE, "R": Kind.READ, "M": Kind.MAYBE, "-": None}

SOURCE = (HERE / "kernels.cu").read_text()
TRUTH = {
    name: {int(offset): KINDS[kind] for offset, kind in (one.split(":") for one in line.split())}
    for line, name in re.findall(r"^//! (.*)\nK (\w+)\(", SOURCE, re.MULTILINE)
}
"""What each kernel does, by name and offset."""


def missed(found):
    """The writes that are called neither writes nor possible ones."""
    return differing(found, lambda truth, told: truth in (Kind.WRITE, Kind.MAYBE) and told in (None, Kind.READ))


def false(found):
    """What is said for sure and is not so."""
    return differing(
        found,
        lambda truth, told: (
            (told is Kind.WRITE and truth is not told)
            or (truth is None and told is Kind.READ)
            or (truth is Kind.READ and told is None)
        ),
    )


def cautious(found):
    """What is only said to be possible, and is sure."""
    return differing(found, lambda truth, told: told is Kind.MAYBE and truth is not told)


def differing(found, differ):
    return [
        f"{name}+{offset}: {truth!r} is called {found[name].of(offset)!r} ({found[name].why})"
        for name, does in TRUTH.items()
        if name in found
        for offset, truth in does.items()
        if differ(truth, found[name].of(offset))
    ]


def words(found):
    """How many pointers are judged."""
    return sum(len(does) for name, does in TRUTH.items() if name in found)


def fixture(name):
    return lzma.decompress((FIXTURES / f"{name}.xz").read_bytes())


def compiled(architecture, kind):
    """``kernels.cu`` as ``"ptx"`` or ``"cubin"``."""
    from cuda.bindings import nvrtc

    _, program = nvrtc.nvrtcCreateProgram(SOURCE.encode(), b"kernels.cu", 0, [], [])
    target = f"--gpu-architecture={'sm' if kind == 'cubin' else 'compute'}_{architecture}".encode()
    [status] = nvrtc.nvrtcCompileProgram(program, 1, [target])
    size, get = {
        "ptx": (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX),
        "cubin": (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN),
    }[kind]
    assert not status, status
    code = b" " * size(program)[1]
    get(program, code)
    return code


def main():
    for architecture in ARCHITECTURES:
        cubin = compiled(architecture, "cubin")
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(cubin)
            file.flush()
            code = subprocess.run([nvdisasm(), "-c", file.name], capture_output=True, check=True).stdout
        for kind, content in (("ptx", compiled(architecture, "ptx").rstrip(b"\0")), ("cubin", cubin), ("sass", code)):
            (FIXTURES / f"sm_{architecture}.{kind}.xz").write_bytes(lzma.compress(content, preset=9))


if __name__ == "__main__":
    main()
