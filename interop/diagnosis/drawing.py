"""A diagnosis as a table: by rich in a terminal, as HTML in a notebook."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from interop._show.html import grid, table
from interop._show.text import rich_or_refuse
from interop.diagnosis.advice import Advice
from interop.diagnosis.libraries import Library
from interop.diagnosis.machine import Gpu, Machine

if TYPE_CHECKING:
    from rich.console import RenderableType

COLUMNS = ("library", "version", "adapter", "current stream now", "0 means")


def rich_table(machine: Machine, libraries: Sequence[Library], advice: Sequence[Advice]) -> "RenderableType":
    """The diagnosis, for rich to print.

    Raises:
        LibraryNotFoundError: rich is not installed.
    """
    rich = rich_or_refuse(". Without rich: interop.doctor().to_dict(), or python -m interop doctor --json")
    Table, Text, style = rich.table.Table, rich.text.Text, rich.box.SIMPLE_HEAD  # noqa: N806  (classes)
    about = Table(title="interop doctor", title_justify="left", box=style, show_header=False)
    about.add_column(style="bold", no_wrap=True)
    about.add_column(overflow="fold")
    for name, value in machine_rows(machine).items():
        about.add_row(name, Text(value))
    found = Table(*COLUMNS, box=style)
    for column in found.columns:
        column.overflow = "fold"
    found.columns[0].no_wrap = True
    for row in library_rows(libraries):
        found.add_row(*map(Text, row))
    advised = Table(box=style, show_header=False)
    for item in advice:
        colour = "yellow" if item.kind == "warning" else "cyan"
        text = Text.assemble((item.about, "bold"), f": {item.what}\n", ("→ ", colour), item.fix)
        advised.add_row(f"[{colour}]{item.kind}[/{colour}]", text)
    if not any(item.kind == "warning" for item in advice):
        advised.add_row("[green]fine[/green]", "no warnings")
    parts: RenderableType = rich.console.Group(about, found, advised)
    return parts


def html(machine: Machine, libraries: Sequence[Library], advice: Sequence[Advice]) -> str:
    """The diagnosis as HTML, for a notebook."""
    found = grid(("", "about", "what", "what to do"), [(a.kind, a.about, a.what, a.fix) for a in advice])
    return table("interop doctor", machine_rows(machine)) + grid(COLUMNS, library_rows(libraries)) + found


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
