"""The kernels whose code was seen."""

import re
import subprocess
from typing import Final

from interop.ledger.kernels import ptx, sass
from interop.ledger.kernels.cache import Cache
from interop.ledger.kernels.cubin import Cubin, nvdisasm
from interop.ledger.kernels.sass_text import parsed
from interop.ledger.kernels.values import Access

_ENTRY: Final = re.compile(r"^\s*(?:\.\w+\s+)*\.entry\s+([\w$%.]+)", re.MULTILINE)


class Kernels:
    """What kernels do through their parameters, by their symbols.

    ::

        kernels = Kernels()
        kernels.add_module(cubin)
        access = kernels.access("_Z4fillPfi")
        access.of(0)  # Kind.WRITE: the kernel writes through its first parameter

    A kernel is analysed when it is first asked for. That takes about a second, most of it in ``nvdisasm``; it is kept
    on disk, and the next run of the program finds it there. Use one from one thread at a time.
    """

    def __init__(self) -> None:
        self._cache = Cache()
        self._cubins: dict[str, dict[str, Cubin]] = {}
        self._texts: dict[str, dict[str, None]] = {}
        self._told: dict[str, dict[str, Access]] = {}
        self._known: dict[str, Access | None] = {}

    def add_module(self, image: bytes) -> None:
        """Add the kernels of a cubin. An image of any other kind has none."""
        cubin = Cubin(image)
        for symbol in cubin.kernels:
            self._cubins.setdefault(symbol, {}).setdefault(cubin.digest(symbol), cubin)
            self._known.pop(symbol, None)

    def add_ptx(self, text: str) -> None:
        """Add the kernels of a PTX text. The machine code that was made of it need not be read then."""
        for symbol in _ENTRY.findall(text):
            self._texts.setdefault(symbol, {})[text] = None
            self._known.pop(symbol, None)

    def access(self, symbol: str) -> Access | None:
        """What a kernel does; ``None`` if its code was not seen.

        If several kernels have this symbol, it is what each of them surely does, and what any of them may do.
        """
        if symbol not in self._known:
            self._known[symbol] = self._analysed(symbol)
        return self._known[symbol]

    def _analysed(self, symbol: str) -> Access | None:
        texts, cubins = self._texts.get(symbol, {}), self._cubins.get(symbol, {})
        for text in texts.keys() - self._told.keys():
            self._told[text] = ptx.accesses(text)
        found = [self._told[text][symbol] for text in texts]
        if len(cubins) > len(texts):
            found += [self._of_code(cubin, symbol, digest) for digest, cubin in cubins.items()]
        if not found:
            return None
        first, *others = found
        for other in others:
            first |= other
        return first

    def _of_code(self, cubin: Cubin, symbol: str, digest: str) -> Access:
        known = self._cache.get(digest)
        if known is not None:
            return known
        tool = nvdisasm()
        if tool is None:
            return _unknown("its machine code is not read without nvdisasm (pip install nvidia-cuda-nvdisasm)")
        try:
            code = parsed(cubin.disassembled(symbol, tool), symbol)
        except subprocess.CalledProcessError as error:
            return _unknown(f"nvdisasm cannot read its machine code: {error.stderr.strip()[:200]}")
        if not code.instructions:
            return _unknown("nvdisasm shows no machine code of it")
        try:
            access = sass.access(code, cubin.frame(symbol))
        except (LookupError, ValueError):
            return _unknown("nvdisasm prints its machine code in a form that is not known")
        self._cache.put(digest, access)
        return access


def _unknown(why: str) -> Access:
    return Access(every=True, why=why)
