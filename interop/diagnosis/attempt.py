"""Calls of code that may be broken: a library, a package's metadata, the driver."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def attempt(call: Callable[[], T], otherwise: T) -> tuple[T, str]:
    """The result of *call* and ``""``; if *call* raises, *otherwise* and the error in words.

    Every exception counts as a failure, also ``SystemExit``: a library must not end the diagnosis. Only
    ``KeyboardInterrupt`` passes.
    """
    try:
        return call(), ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001
        return otherwise, f"{type(error).__name__}: {error}".removesuffix(": ")
