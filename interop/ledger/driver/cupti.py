"""CUPTI: the library by which NVIDIA's tools see the driver's calls. PyTorch and the CUDA toolkit bring it."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from interop.errors import NotSupportedError

_DRIVER: Final = 1
_RESOURCE: Final = 3
_MODULE_LOADED: Final = 6
_MOST_CALLS: Final = 2048
_TAKEN: Final = 39
_SHARED_SINCE: Final = 130200
"""The version of CUPTI from which on a process may have several subscribers."""


class EyeShut(NotSupportedError):  # noqa: N818  (a state, which a ledger with other eyes tells of)
    """The driver's eye cannot be opened.

    Attributes:
        why: the reason.
        way_out: what to do.
    """

    def __init__(self, why: str, way_out: str) -> None:
        """Tell both."""
        super().__init__(f"the driver's eye stays shut: {why}; {way_out}")
        self.why = why
        self.way_out = way_out


class _Parameters(ctypes.Structure):
    """Of cuptiSubscribe_v2."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("other_name", ctypes.c_char_p),
        ("other_size", ctypes.c_size_t),
        ("shared", ctypes.c_uint8),
        ("padding", ctypes.c_uint8 * 7),
    )


def find() -> str:
    """The path of the one libcupti of this process: the one that is loaded, else the one that PyTorch would load.

    Raises:
        EyeShut: there is none.
    """
    with Path("/proc/self/maps").open() as maps:
        loaded = [line.split(maxsplit=5)[5].strip() for line in maps if "/libcupti.so" in line]
    if loaded:
        return loaded[0]
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return str(load_nvidia_dynamic_lib("cupti").abs_path)
    except Exception as error:
        why = "there is no libcupti.so"
        raise EyeShut(why, "install the wheel nvidia-cuda-cupti, which PyTorch brings, or the CUDA toolkit") from error


class Cupti:
    """One subscription to the calls of the driver."""

    def __init__(self, path: str | None = None) -> None:
        """Load the library at *path*, or the one that :func:`find` finds."""
        self.path = path or find()
        self._library = ctypes.CDLL(self.path)
        self._subscriber = ctypes.c_void_p()
        version = ctypes.c_uint32()
        self._check("cuptiGetVersion", ctypes.byref(version))
        self.version = version.value

    def names(self) -> list[str]:
        """The names of the driver's calls, by their numbers; empty where CUPTI knows none."""
        names = []
        for number in range(_MOST_CALLS):
            name = ctypes.c_char_p()
            unknown = self._library.cuptiGetCallbackName(_DRIVER, ctypes.c_uint32(number), ctypes.byref(name))
            names.append("" if unknown or name.value is None else name.value.decode())
        return names

    def subscribe(self, callback: int, calls: Sequence[int]) -> None:
        """Have the C function at *callback* called at the beginning and the end of each of *calls*, given by number.

        Raises:
            EyeShut: somebody else has subscribed.
        """
        subscriber, function = ctypes.byref(self._subscriber), ctypes.c_void_p(callback)
        if self.version >= _SHARED_SINCE:
            other = ctypes.create_string_buffer(128)
            parameters = _Parameters(
                ctypes.sizeof(_Parameters), b"interop", ctypes.cast(other, ctypes.c_char_p), 128, 1
            )
            self._check("cuptiSubscribe_v2", subscriber, function, None, ctypes.byref(parameters))
        else:
            self._check("cuptiSubscribe", subscriber, function, None)
        for call in calls:
            self._check("cuptiEnableCallback", ctypes.c_uint32(1), self._subscriber, _DRIVER, ctypes.c_uint32(call))
        loaded = ctypes.c_uint32(_MODULE_LOADED)
        self._check("cuptiEnableCallback", ctypes.c_uint32(1), self._subscriber, _RESOURCE, loaded)

    def unsubscribe(self) -> None:
        """End the subscription, if there is one."""
        if self._subscriber:
            self._library.cuptiUnsubscribe(self._subscriber)
            self._subscriber = ctypes.c_void_p()

    def _check(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code == _TAKEN:
            why = (
                "somebody else in this process uses CUPTI, as torch.profiler does from its first use on, or a profiler"
            )
            way_out = "open the eye first, or set TEARDOWN_CUPTI=1, which makes torch.profiler let go of CUPTI"
            raise EyeShut(why, way_out)
        if code:
            text = ctypes.c_char_p()
            self._library.cuptiGetResultString(code, ctypes.byref(text))
            said = (text.value or b"an unknown error").decode()
            why = f"{name} of {self.path} says {said} ({code})"
            raise EyeShut(why, "report this, with the version of the driver")
