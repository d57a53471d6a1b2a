"""A diagnosis as a table: as text in a terminal, as HTML in a notebook."""

import re
from collections.abc import Sequence

from interop._show import plain
from interop._show.html import grid, table
from interop.diagnosis.advice import Advice
from interop.diagnosis.libraries import Library
from interop.diagnosis.machine import Gpu, Machine
from interop.diagnosis.pools import Pool

COLUMNS = ("library", "version", "adapter", "current stream now", "0 means")
POOL_COLUMNS = ("memory pool", "libraries", "held", "in use")


def text(machine: Machine, libraries: Sequence[Library], pools: Sequence[Pool], advice: Sequence[Advice]) -> str:
    """The diagnosis as plain text, for a terminal."""
    advised: list[tuple[str, str]] = [(item.kind, f"{item.about}: {item.what}\n→ {item.fix}") for item in advice]
    if not any(item.kind == "warning" for item in advice):
        advised.append(("fine", "no warnings"))
    parts = [
        "interop doctor",
        plain.table(machine_rows(machine).items()),
        plain.table(library_rows(libraries), COLUMNS),
    ]
    parts += [plain.table(pool_rows(pools), POOL_COLUMNS)] if pools else []
    return "\n\n".join((*parts, plain.table(advised)))


def html(machine: Machine, libraries: Sequence[Library], pools: Sequence[Pool], advice: Sequence[Advice]) -> str:
    """The diagnosis as HTML, for a notebook."""
    found = grid(("", "about", "what", "what to do"), [(a.kind, a.about, a.what, a.fix) for a in advice])
    of_pools = grid(POOL_COLUMNS, pool_rows(pools)) if pools else ""
    return table("interop doctor", machine_rows(machine)) + grid(COLUMNS, library_rows(libraries)) + of_pools + found


def machine_rows(machine: Machine) -> dict[str, str]:
    """The machine, a row for each fact."""
    driver = machine.driver or ("version not known" if machine.driver_cuda else "none")
    rows = {
        "interop": f"{machine.interop} on Python {machine.python}",
        "extension in C": machine.extension,
        "driver": f"{driver}, runs CUDA up to {machine.driver_cuda}" if machine.driver_cuda else driver,
        "runtime": f"CUDA {machine.runtime_cuda or 'not known'}, of cuda-bindings {machine.bindings or 'not known'}",
        "GPUs": "\n".join(map(_gpu, machine.gpus)) or "none",
    }
    if machine.current_device is not None:
        rows["current device"] = str(machine.current_device)
    if machine.variables:
        rows["variables"] = "\n".join(f"{name}={value}" for name, value in machine.variables.items())
    return rows


def library_rows(libraries: Sequence[Library]) -> list[tuple[str, ...]]:
    """The libraries, a row for each."""
    return [
        (
            library.name,
            "\n".join(f"{name} {version}" for name, version in library.distributions.items()) or "not known",
            _adapter(library),
            library.failure or (str(library.current) if library.current else library.remark),
            library.null or "not known",
        )
        for library in libraries
    ]


def pool_rows(pools: Sequence[Pool]) -> list[tuple[str, ...]]:
    """The memory pools, a row for each."""
    return [(pool.name, ", ".join(pool.libraries), _bytes(pool.held), _bytes(pool.used)) for pool in pools]


def _bytes(count: int | None) -> str:
    return "not known" if count is None else f"{count / 2**20:.1f} MiB"


def _adapter(library: Library) -> str:
    """Where the adapter comes from, in few words: the package of a plugin, not its path."""
    built_in = library.adapter.startswith("interop.adapters.")
    packages = re.findall(r"\((.*?)\)", library.adapter)
    plugin = f"plugin: {', '.join(packages)}" if packages else library.adapter
    trip = f"\nround trip: {library.round_trip}" if library.round_trip else ""
    return ("built in" if built_in else plugin) + trip


def _gpu(gpu: Gpu) -> str:
    parts = [f"{gpu.ordinal}: {gpu.name}"]
    parts += [f"{gpu.memory / 2**30:.0f} GiB"] if gpu.memory else []
    parts += [f"compute capability {gpu.compute_capability}"] if gpu.compute_capability else []
    parts += ["in use by this process" if gpu.has_context else "not used by this process yet"]
    return ", ".join(parts)
