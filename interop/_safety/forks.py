"""Locks that are free in a forked child, and functions that put other state right there.

A child of ``os.fork()`` has one thread, the one that forked. A lock that another thread held at that moment stays taken
in the child for ever. CUDA does not work in the child if the parent had started it.

All locks of interop come from here. They are free in each child::

    self._lock = forks.lock()

An object with other state that is wrong in a child, such as queues, threads or handles, names a function for it::

    forks.in_child(self, Owner._was_forked)

``Owner._was_forked(self)`` is then called once in each child, before ``os.fork()`` returns there. Its rules:

- It calls no CUDA, and no library that may call CUDA: such calls hang.
- It releases no object whose finaliser would call CUDA. If it must forget such an object, :func:`never_free` keeps the
  object for good.
- It takes only locks of this module. It raises nothing, because nobody would see the error.

The functions run in the order of the calls of :func:`in_child`. ``_cuda.GPU`` is first: others read ``GPU.was_forked``.
"""

import _thread
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")

_locks: Final["weakref.WeakSet[Any]"] = weakref.WeakSet()
_owners: Final["weakref.WeakKeyDictionary[Any, Callable[[Any], None]]"] = weakref.WeakKeyDictionary()


if sys.version_info[:2] == (3, 14):

    class _Lock(_thread.RLock):
        """A lock that is free after an interrupt.

        A signal handler can run in CPython 3.14 as soon as ``__enter__`` of C has returned; if it raises, ``__exit__``
        is not called (python/cpython#148874). After an ``__enter__`` of Python, no handler runs.
        """

        def __enter__(self) -> bool:
            held = self._recursion_count()
            try:
                return self.acquire()
            except BaseException:
                if self._recursion_count() > held:
                    self.release()
                raise

else:
    _Lock = threading.RLock


# Not `threading.RLock`, which is no type before Python 3.13.
def lock() -> Any:  # noqa: ANN401
    """Make a re-entrant lock that nobody holds in a child, but for the thread that forks.

    After a signal handler has raised in a ``with`` statement of the lock, it is as before the statement.
    """
    made = _Lock()
    _locks.add(made)
    return made


def in_child(owner: T, function: Callable[[T], None]) -> None:
    """Call *function* with *owner* in every child that is forked while *owner* lives. Does not keep *owner* alive.

    Args:
        owner: hashable; *function* itself must not refer to it.
        function: see the rules above.
    """
    _owners[owner] = function


def never_free(thing: object) -> None:
    """Keep *thing* until the process is gone, past the end of the interpreter: no finaliser runs."""
    import ctypes  # noqa: PLC0415  (a third of the time of `import interop`)

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _after_fork() -> None:
    for taken in list(_locks):
        if not taken._is_owned():  # noqa: SLF001  (by the thread that forked, which will release it)
            taken._at_fork_reinit()  # noqa: SLF001
    for owner, function in list(_owners.items()):
        function(owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
