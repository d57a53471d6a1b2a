"""Which event is which: by the object where there is one, because addresses are used again."""

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from interop.adapters.base import life_of

if TYPE_CHECKING:
    from interop.event import Event


class Token:
    """Stands for an event, for as long as the event lives.

    Attributes:
        is_unrecorded: whether the event's creation was seen, and no record of it since.
    """

    def __init__(self, *, is_unrecorded: bool = False) -> None:
        self.is_unrecorded = is_unrecorded


class Events:
    """A token for each event, for as long as the event lives. Takes no lock: one step at a time changes it."""

    def __init__(self, gone: Callable[[int, object, Token], None]) -> None:
        """Start with none.

        Args:
            gone: called by a finaliser for each event that is gone, with the arguments of :meth:`remove` and the token.
        """
        self._gone = gone
        self._tokens: dict[int, tuple[weakref.ref[Any], Token]] = {}
        self._by_handle: dict[int, Token] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def made(self, event: "Event", handle: int) -> None:
        """An event was made, and not recorded yet."""
        token = Token(is_unrecorded=True)
        self._remember(_base(event), token)
        self._by_handle[handle] = token

    def recorded(self, event: "Event", handle: int) -> Token:
        """The token of an event that is being recorded."""
        token = self.token(event)
        token.is_unrecorded = False
        self._by_handle[handle] = token
        return token

    def token(self, event: "Event") -> Token:
        """The token of *event*."""
        if event.owner is None and not event._owned:
            # A bare handle. It means the event that was made or recorded last at that address.
            return self._by_handle.setdefault(event._handle, Token())
        base = _base(event)
        reference, token = self._tokens.get(id(base), (None, Token()))
        if reference is None or reference() is not _life(base):
            token = Token()
            self._remember(base, token)
        return token

    def _remember(self, base: object, token: Token) -> None:
        """Let *token* stand for the event that lives as long as *base*."""
        number = id(base)

        def gone(reference: "weakref.ref[Any]") -> None:
            token.is_unrecorded = False  # the next event at its address may have been recorded
            self._gone(number, reference, token)

        self._tokens[number] = (weakref.ref(_life(base), gone), token)

    def remove(self, number: int, reference: object) -> None:
        """Forget an event that is gone."""
        if self._tokens.get(number, (None,))[0] is reference:
            del self._tokens[number]


def _base(event: "Event") -> object:
    return event if event.owner is None else event.owner


def _life(base: object) -> object:
    """An object that takes weak references and lives as long as *base*; the same each time."""
    # Before PyTorch 2.13, a weak reference to a torch.cuda.Event is left dangling when the event is gone.
    # https://github.com/pytorch/pytorch/pull/183403
    return life_of(base) or base
