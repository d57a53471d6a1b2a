"""The extension in C; the rest of the package is described in pyproject.toml."""

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Not needed, but faster; and without it no array can be given away by DLPack.
NATIVE = Extension(
    "interop._native._ext",
    sorted(map(str, Path("interop/_native").glob("*.c"))),
    depends=["interop/_native/native.h", "interop/_native/recorder.h"],
    py_limited_api=True,
    optional=True,
    extra_compile_args=["-O2", "-std=c11", "-fvisibility=hidden", "-Wall", "-Wextra"],
)
NOTE = Path("interop/_native/_ext.txt")


class BuildAndTell(build_ext):
    """Builds the extension; where that fails, what the compiler has said goes into the package, for ``doctor``."""

    def run(self) -> None:
        """Build. In place, the package is that of the sources."""
        in_place = self.inplace
        super().run()
        if in_place:
            NOTE.unlink(missing_ok=True)
            built = self.build_lib / NOTE
            if built.exists():
                shutil.copy(built, NOTE)

    def build_extension(self, ext: Extension) -> None:
        """Build, and keep what is written to standard error if it fails."""
        note = self.build_lib / NOTE
        note.unlink(missing_ok=True)
        sys.stderr.flush()
        usual = os.dup(2)
        with tempfile.TemporaryFile("w+", errors="replace") as said:
            os.dup2(said.fileno(), 2)
            try:
                super().build_extension(ext)
            except Exception as error:
                said.seek(0)
                note.parent.mkdir(parents=True, exist_ok=True)
                note.write_text(f"{said.read()}{error}\n")
                raise
            finally:
                sys.stderr.flush()
                os.dup2(usual, 2)
                os.close(usual)
                said.seek(0)
                sys.stderr.write(said.read())


# One wheel for every CPython from 3.11 on, but for the free-threaded builds: they have no stable ABI.
if sysconfig.get_config_var("Py_GIL_DISABLED"):
    setup()
else:
    setup(
        ext_modules=[NATIVE],
        cmdclass={"build_ext": BuildAndTell},
        options={"bdist_wheel": {"py_limited_api": "cp311"}},
    )
