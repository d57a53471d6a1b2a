"""What ``interop.doctor()`` finds: the machine, the libraries, their current streams, and what to fix.

- ``machine``: driver, runtime, GPUs
- ``packages``: the installed packages, and those whose metadata is broken
- ``libraries``: versions, current streams, which default stream 0 means
- ``pools``: the memory pools, and which libraries share one
- ``advice``: what is wrong, and what to do
- ``traps``: what is known to go wrong with a library or a variable that is there
- ``drawing``: the table
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, TextIO

from interop import _cuda
from interop._core.switching import streams_in_use
from interop.diagnosis import drawing, libraries, machine, packages, pools, traps
from interop.diagnosis.advice import Advice, Facts, advise
from interop.diagnosis.attempt import attempt
from interop.diagnosis.libraries import Library
from interop.diagnosis.machine import Machine
from interop.diagnosis.pools import Pool

SCHEMA: Final = 1
"""The version of what :meth:`Diagnosis.to_dict` returns. It grows when a key is removed or changes its meaning."""


@dataclass(frozen=True, slots=True, repr=False)
class Diagnosis:
    """What :func:`interop.doctor` found. Shows itself as a table in a terminal and in a notebook.

    Attributes:
        machine: driver, runtime, GPUs.
        libraries: the installed libraries.
        pools: the memory pools of the loaded libraries on the current device, if its context exists.
        advice: warnings and notes, each with what to do.
    """

    machine: Machine
    libraries: tuple[Library, ...]
    pools: tuple[Pool, ...]
    advice: tuple[Advice, ...]

    @property
    def warnings(self) -> list[Advice]:
        """The warnings among the advice."""
        return [advice for advice in self.advice if advice.kind == "warning"]

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis in dictionaries, lists, strings and numbers, for ``json.dumps``.

        Returns:
            ``schema``, which is :data:`SCHEMA`, and the attributes of this object by their names.
        """
        return {"schema": SCHEMA, **asdict(self)}

    def __str__(self) -> str:
        """The table, as text, as wide as the terminal."""
        return drawing.text(self.machine, self.libraries, self.pools, self.advice)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return drawing.html(self.machine, self.libraries, self.pools, self.advice)


def examine(version: str, *, probe: bool) -> Diagnosis:
    """Do what :func:`interop.doctor` promises, for this version of interop."""
    if probe and not _cuda.active().was_forked:
        _set_up()
    there = packages.look()
    bindings = there.versions.get("cuda-bindings")
    found = machine.look(version, bindings)
    installed = tuple(libraries.look(there, device=found.current_device, probe=probe))
    if probe:
        found = machine.look(version, bindings)  # the libraries have created contexts meanwhile
    in_use = frozenset(stream.cuda_stream for stream in streams_in_use())
    facts = Facts(found, installed, there, in_use, traps.loaded())
    return Diagnosis(found, installed, tuple(pools.look(installed, found.current_device)), tuple(advise(facts)))


def _set_up() -> None:
    """Create the context of the current device, if there is a device."""
    cuda = _cuda.active()
    attempt(lambda: cuda.primary_context(cuda.current_device()), None)  # if it fails, `machine.look` says why


def main(version: str, *, as_json: bool, probe: bool) -> int:
    """Print the diagnosis. Returns the exit status: 1 if there is a warning."""
    with _output() as output:
        diagnosis = examine(version, probe=probe)
        if as_json:
            print(json.dumps(diagnosis.to_dict(), indent=2), file=output)
        else:
            print(diagnosis, file=output)
    return 1 if diagnosis.warnings else 0


@contextlib.contextmanager
def _output() -> Iterator[TextIO]:
    """The standard output, for the diagnosis alone. All other output, also of C code, goes to standard error.

    That holds until the process ends: C code may write its buffers only then.
    """
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors="backslashreplace") as output:
        os.dup2(2, 1)
        yield output
