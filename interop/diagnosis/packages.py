"""The installed packages. Each is read by itself, so one with broken metadata does not hide the others."""

import importlib.metadata
import re
from dataclasses import dataclass, field
from typing import Any

from interop.diagnosis.attempt import attempt


@dataclass(frozen=True, slots=True)
class Packages:
    """The installed packages.

    Attributes:
        versions: the version of each package, by its name in lower case with hyphens.
        modules: the packages that contain a module, by the module's name.
        broken: what is wrong with the metadata of a package, by the path of the metadata.
    """

    versions: dict[str, str] = field(default_factory=dict)
    modules: dict[str, list[str]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


def look() -> Packages:
    """Read the metadata of all packages."""
    found = Packages()
    for distribution in importlib.metadata.distributions():
        _, failure = attempt(lambda: _add(found, distribution), None)  # noqa: B023  (called at once)
        if failure:
            found.broken[str(getattr(distribution, "_path", distribution))] = failure
    return found


def _add(found: Packages, distribution: importlib.metadata.Distribution) -> None:
    metadata: Any = distribution.metadata  # an email.message.Message
    name, version = metadata.get("Name"), metadata.get("Version")
    if not name or not version:
        message = f"METADATA is missing, or has no {'version' if name else 'name'}"
        raise LookupError(message)
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in found.versions:
        return  # the first one on the path is the one that Python imports
    found.versions[name] = version
    for module in _modules(distribution):
        found.modules.setdefault(module, []).append(name)
    list(distribution.entry_points)  # reads the file


def _modules(distribution: importlib.metadata.Distribution) -> set[str]:
    declared = (distribution.read_text("top_level.txt") or "").split()
    return set(declared) or {path.parts[0] for path in distribution.files or () if path.parts}
