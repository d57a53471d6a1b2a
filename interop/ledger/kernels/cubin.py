"""Kernels in a cubin: where their code lies, how each gets its parameters, and ``nvdisasm``, which reads the code.

A cubin is an ELF file. Per kernel it has a section of code and one of notes, with the offsets of the parameters.
"""

import functools
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from interop.ledger.kernels.sass_values import Frame
from interop.ledger.kernels.values import HARMLESS

_SYMBOLS: Final = 2
_RELOCATIONS: Final = (4, 9)
_FUNCTION: Final = 2
_KERNEL: Final = 0x10
_CONSTANTS: Final = 0x0A
_PARAMETER: Final = 0x17

_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")


class _Section(NamedTuple):
    name: str
    kind: int
    offset: int
    size: int
    link: int
    info: int
    each: int


class Cubin:
    """One cubin.

    Attributes:
        kernels: the number of each kernel among the symbols, by its name.
    """

    def __init__(self, image: bytes) -> None:
        """Look for kernels. An image that is no cubin has none."""
        self.kernels: dict[str, int] = {}
        self._image = image
        self._sections: dict[str, _Section] = {}
        self._names: list[tuple[str, bool]] = []
        try:
            self._read()
        except (struct.error, ValueError, IndexError):
            self.kernels = {}

    def frame(self, kernel: str) -> Frame:
        """How a kernel gets its parameters."""
        base = size = 0
        parameters = {}
        for attribute, value in _attributes(self._content(f".nv.info.{kernel}")):
            if attribute == _CONSTANTS:
                base, size = struct.unpack_from("<HH", value, 4)
            elif attribute == _PARAMETER:
                number, offset = struct.unpack_from("<HH", value, 4)
                parameters[number] = offset
        return Frame(base, size, tuple(offset for _, offset in sorted(parameters.items())), harmless=self._harmless)

    def digest(self, kernel: str) -> str:
        """A hash of everything that tells what a kernel does."""
        found = hashlib.sha256(bytes([self._harmless]))
        for kind in (".text", ".rel.text", ".rela.text", ".nv.info"):
            content = self._content(f"{kind}.{kernel}")
            found.update(len(content).to_bytes(8) + content)
        return found.hexdigest()

    def disassembled(self, kernel: str, tool: str) -> str:
        """The code of a kernel as text. It raises ``subprocess.CalledProcessError`` if *tool* cannot read it."""
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self._image)
            file.flush()
            command = [tool, "-c", "-fun", str(self.kernels[kernel]), file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603

    @functools.cached_property
    def _harmless(self) -> bool:
        """Whether the functions that it calls by constant bank 4 are all the driver's own."""
        called = set()
        for name in (".rel.nv.constant4", ".rela.nv.constant4"):
            content = self._content(name)
            each = self._sections[name].each if content else 16
            for at in range(8, len(content), each):
                (number,) = struct.unpack_from("<I", content, at + 4)
                called |= {self._names[number]}
        return {name for name, function in called if function} <= HARMLESS

    def _read(self) -> None:
        if not self._image.startswith(b"\x7fELF\x02\x01"):
            return
        (start,) = struct.unpack_from("<Q", self._image, 0x28)
        _, count, strings = struct.unpack_from("<HHH", self._image, 0x3A)
        raw = [_SECTION.unpack_from(self._image, start + i * _SECTION.size) for i in range(count)]
        for name, kind, _, _, offset, size, link, info, _, each in raw:
            section = _Section(self._text(raw[strings][4] + name), kind, offset, size, link, info, each)
            self._sections[section.name] = section
        for section in self._sections.values():
            if section.kind == _SYMBOLS:
                self._read_symbols(section, raw[section.link][4])

    def _read_symbols(self, section: _Section, strings: int) -> None:
        for i, (name, info, other, *_) in enumerate(_SYMBOL.iter_unpack(self._content(section.name))):
            text = self._text(strings + name)
            # A function that is not in this file has no type.
            function = info & 15 == _FUNCTION or not info & 15
            self._names.append((text, function))
            if info & 15 == _FUNCTION and other & _KERNEL:
                self.kernels[text] = i

    def _content(self, name: str) -> bytes:
        section = self._sections.get(name)
        return self._image[section.offset : section.offset + section.size] if section else b""

    def _text(self, at: int) -> str:
        return self._image[at : self._image.index(b"\0", at)].decode()


def _attributes(notes: bytes) -> Iterator[tuple[int, bytes]]:
    """The notes of a kernel that have a value of several bytes, by their numbers."""
    at = 0
    while at + 4 <= len(notes):
        form, attribute, size = struct.unpack_from("<BBH", notes, at)
        at += 4
        if form == 4:  # noqa: PLR2004
            yield attribute, notes[at : at + size]
            at += size


@functools.cache
def nvdisasm() -> str | None:
    """Where the tool lies that reads machine code: on the path, in the toolkit, or in a wheel."""
    places = [("/usr/local", "cuda*/bin/nvdisasm")]
    for folder in sys.path:
        places += [(folder, "nvidia/*/bin/nvdisasm"), (folder, "triton/backends/nvidia/bin/nvdisasm")]
    found = (str(path) for folder, pattern in places for path in sorted(Path(folder).glob(pattern)))
    return shutil.which("nvdisasm") or next((path for path in found if os.access(path, os.X_OK)), None)
