"""Changes to one state, made one after another, whatever thread, finaliser or signal handler comes in between."""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from interop._safety import forks

State = TypeVar("State")


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

        Without *wait*, another thread that is taking steps takes this one too. So the call blocks nobody: neither a
        finaliser, which may run in the middle of another step, nor a thread that holds a lock which finalisers take.
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
        while wait or self.pending:
            # A signal handler raises right after a call: after `acquire`, and never just before `release`.
            try:
                if not self.lock.acquire(blocking=wait):
                    return
                while self.pending:
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
