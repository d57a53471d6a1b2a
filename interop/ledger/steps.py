"""Change one state in steps, one after another, also if several threads, finalisers and signal handlers make steps."""

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from interop._safety import forks

State = TypeVar("State")

_MORE: Final = 100
"""So many steps that come meanwhile are taken too: if no more come, none is left."""
_CROWD: Final = 1000
_PAUSE: Final = 0.01
"""While so many steps are pending, a thread that makes one waits for its turn, for so many seconds at most."""


class Steps(Generic[State]):
    """A queue of steps, and the state that they change. A step returns the new state, or None to leave it as it is.

    A signal handler may raise in the middle of a step. Then the step is taken again before the next one, so it must
    tolerate that. It counts once: its result is stored when it has returned.
    """

    def __init__(self, state: State) -> None:
        """Start with *state*, and no step."""
        self.state = state
        self.pending: deque[Callable[[], State | None]] = deque()
        self.lock = forks.lock()
        self._failed: object = None

    def take(self, step: Callable[[], State | None], *, wait: bool = False) -> None:
        """Take a step after those that are pending. With *wait*, return only after it was taken.

        Without *wait*, another thread that is taking steps takes this one too, or leaves it to the next call. So the
        call blocks nobody for long: neither a finaliser, which may run in the middle of another step, nor a thread that
        holds a lock which finalisers take.
        """
        self.pending.append(step)
        if not self.lock._is_owned():  # else this thread is in the middle of a step, and takes this one afterwards
            self._take_all(wait=wait)

    def settled(self) -> State:
        """The state after all steps."""
        if not self.lock._is_owned():
            self._take_all(wait=True)
        return self.state

    def _take_all(self, *, wait: bool) -> None:
        most = len(self.pending) + _MORE  # not all that come: other threads may make steps without end
        while wait or (self.pending and most):
            crowded = len(self.pending) > _CROWD
            # A signal handler raises right after a call: after `acquire`, and never just before `release`.
            try:
                if not self.lock.acquire(timeout=-1 if wait else _PAUSE if crowded else 0):
                    return
                while self.pending and most:
                    most -= 1
                    self._take(self.pending[0])
            finally:
                try:  # noqa: SIM105  (contextlib.suppress is a call of Python's, before the release)
                    self.lock.release()
                except RuntimeError:  # it was not acquired
                    pass
            wait = False

    def _take(self, step: Callable[[], State | None]) -> None:
        try:
            state = step()
        except Exception:
            if self._failed is step:  # twice: this is no signal handler's exception, and would never end
                self.pending.popleft()
            self._failed = step
            raise
        # No call between these two: a signal handler raises before both or after both.
        if state is not None:
            self.state = state
        self.pending.popleft()
