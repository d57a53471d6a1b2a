"""Run parts of a test in threads of their own."""

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T]) -> T:
    """What *work* returns or raises, run in a new thread."""
    [result] = in_threads(work)
    return result


def in_threads(*works: Callable[[], T]) -> list[T]:
    """What each of *works* returns, all run at once in new threads. Raises the first error of any."""
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def run(place: int, work: Callable[[], T]) -> None:
        try:
            results[place] = work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [results[place] for place in range(len(works))]
