"""Processes of this machine: which one this is, who is at the other end of a socket, and whether one has ended."""

import functools
import os
from typing import TYPE_CHECKING, NamedTuple

from interop._cuda import Cuda

if TYPE_CHECKING:
    import socket


class Identity(NamedTuple):
    """A process: the host with its PID namespace, the number, and when it started, which tells it from later ones."""

    host: str
    pid: int
    start: int


def me(cuda: Cuda) -> Identity:
    """The calling process; in a simulation, the simulated process that runs."""
    if cuda.simulation is not None:
        return Identity("SIMULATED", os.getpid(), cuda.simulation.processes.current)
    return _identity(os.getpid())


@functools.lru_cache(1)
def _identity(pid: int) -> Identity:
    # CUDA's handles mean nothing in another PID namespace.
    namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  (to import pathlib takes long)
    return Identity(f"{_text('/proc/sys/kernel/random/boot_id').strip()} {namespace}", pid, _start(pid) or 0)


def _text(path: str) -> str:
    with open(path) as file:  # noqa: PTH123
        return file.read()


def has_ended(cuda: Cuda, pid: int, start: int) -> bool:
    """Whether a process is gone, and its CUDA contexts with it."""
    if cuda.simulation is not None:
        return start in cuda.simulation.processes.killed
    return _start(pid) != start


def _start(pid: int) -> int | None:
    """When a process started, in ticks since boot; None if there is none, or only its entry for its parent is left."""
    try:
        stat = _text(f"/proc/{pid}/stat")
    except OSError:
        return None
    # The name, in parentheses, can have spaces. Then: state 0, threads 17, start 19.
    fields = stat.rpartition(")")[2].split()
    # A process is dead before its last thread is, and its files and contexts go with the last thread.
    return None if fields[0] in "ZX" and int(fields[17]) <= 1 else int(fields[19])


def other_end(connection: "socket.socket") -> tuple[int, int]:
    """The process and the user at the other end of a Unix socket, as the kernel knows them."""
    import socket  # noqa: PLC0415  (only who shares needs it)
    import struct  # noqa: PLC0415

    size = struct.calcsize("3i")
    pid, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, user


def start_of(cuda: Cuda, pid: int, stated: int) -> int:
    """When the process at the other end started; in a simulation, as it has stated."""
    return stated if cuda.simulation is not None else (_start(pid) or 0)
