"""The environment variables of interop's own, each of which is 0 or 1."""

import os


def switch(name: str, *, on: str, off: str) -> bool | None:
    """Whether the variable is 1; None if it is not set, or empty.

    Args:
        name: the variable.
        on: what 1 is for, for the message.
        off: what 0 is for.

    Raises:
        ValueError: it is set to anything else. A guess at what a word means would be wrong for somebody.
    """
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        message = f"{name} is 0, to {off}, or 1, to {on}; got {value!r}"
        raise ValueError(message)
    return value == "1" if value else None
