"""To call what may be broken: other people's code and files, on a machine that may be sick."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def attempt(call: Callable[[], T], otherwise: T) -> tuple[T, str]:
    """What *call* returns, and ``""``; or *otherwise*, and what *call* raised.

    ``SystemExit`` counts as a failure, and so does every other exception that is not an ``Exception``: a library must
    not end the diagnosis. Only Ctrl-C does.
    """
    try:
        return call(), ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001
        return otherwise, f"{type(error).__name__}: {error}".removesuffix(": ")
