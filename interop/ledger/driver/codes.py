"""Which code an address means, and which line an offset in it: for frames that were read without the GIL."""

import gc
import sys
from collections.abc import Iterator
from types import CodeType, FrameType, FunctionType
from typing import Final

_WORD: Final = (1 << 64) - 1


def fingerprint(code: CodeType) -> int:
    """What the recorder notes of a code beside its address, to tell another code that lies there later."""
    return id(code.co_filename) ^ (id(code.co_name) << 1) & _WORD


class Codes:
    """The codes that live. Those that were found are kept alive."""

    def __init__(self) -> None:
        self._known: dict[int, CodeType] = {}
        self._lines: dict[tuple[CodeType, int], int] = {}

    def keep(self, code: CodeType) -> None:
        """Remember *code*, and the codes in it."""
        if self._known.get(id(code)) is not code:
            self._known[id(code)] = code
            for constant in code.co_consts:
                if isinstance(constant, CodeType):
                    self.keep(constant)

    def look(self) -> None:
        """Remember all codes of functions that live, and of frames that run."""
        for thing in gc.get_objects():
            if type(thing) is FunctionType:
                self.keep(thing.__code__)
        for frame in sys._current_frames().values():
            for one in _stack(frame):
                self.keep(one.f_code)

    def place(self, words: tuple[int, ...]) -> tuple[tuple[CodeType, int], ...]:
        """The codes and lines of recorded frames. A frame whose code is gone is left out."""
        found = []
        for address, mark, offset in zip(words[::3], words[1::3], words[2::3], strict=True):
            code = self._known.get(address)
            if code is not None and fingerprint(code) == mark:
                found.append((code, self._line(code, offset)))
        return tuple(found)

    def knows(self, words: tuple[int, ...]) -> bool:
        """Whether the codes of all frames are known."""
        return all(address in self._known for address in words[::3])

    def _line(self, code: CodeType, offset: int) -> int:
        line = self._lines.get((code, offset))
        if line is None:
            at = (number for start, stop, number in code.co_lines() if start <= offset < stop)
            line = self._lines[code, offset] = next(at, None) or code.co_firstlineno
        return line


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
