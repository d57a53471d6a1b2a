"""What was told of kernels in earlier runs, on disk: one small file for each, named by a hash of its code."""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Final

from interop.ledger.kernels.values import Access

_HERE: Final = Path(__file__).parent


class Cache:
    """A folder of answers: ``$XDG_CACHE_HOME/interop/kernels``, or the same in ``~/.cache``.

    Another version of the analysis has other files. A file that cannot be read counts as none, and if nothing can be
    written, nothing is kept.
    """

    def __init__(self) -> None:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self._folder = Path(root, "interop", "kernels")
        self._version = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_HERE.glob("*.py")))).hexdigest()

    def get(self, digest: str) -> Access | None:
        """What was kept under the hash of a kernel."""
        try:
            return Access.from_json(json.loads(self._file(digest).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def put(self, digest: str, access: Access) -> None:
        """Keep what a kernel does. Another process that reads it meanwhile sees all of the file or none."""
        file = self._file(digest)
        unfinished = file.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(json.dumps(access.to_json()))
            unfinished.replace(file)

    def _file(self, digest: str) -> Path:
        return self._folder / f"{hashlib.sha256(f'{self._version} {digest}'.encode()).hexdigest()}.json"
