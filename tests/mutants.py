"""Break the code on purpose, one small change at a time; each must turn the named test red.

Run by ``make mutants``; names of tables as arguments take only those. Works on copies: the checkout is not touched.

The extension in C is built in the copy, and once more for each change of its source. What it stands in for is broken
where it is left out (``plain = true``). With ``INTEROP_NATIVE=0`` it is left out everywhere, together with the changes
that only a test with the extension can see (``native = true``, and those of its source).
"""

import functools
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TABLES = sorted(Path(__file__).parent.glob("*mutations.toml"))
COPIED = ("benchmarks", "docs", "interop", "tests", "README.md", "pyproject.toml", "setup.py")
EXTENSION = "interop/_native"
NATIVE = os.environ.get("INTEROP_NATIVE") != "0"


def run(tests: list[str], package: Path, *, plain: bool) -> subprocess.CompletedProcess[str]:
    native = "" if NATIVE and not plain else "0"
    environment = {**os.environ, "PYTHONPATH": str(package), "INTEROP_NATIVE": native}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:hypothesispytest",
        *tests,
    ]
    return subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, check=False)


def build(package: Path) -> str | None:
    """Build the extension; None, or why it cannot be built."""
    folder = package / EXTENSION
    for built in folder.glob("*.so"):
        built.unlink()
    options = ["-w", "-shared", "-fPIC", "-fvisibility=hidden", f"-I{sysconfig.get_path('include')}"]
    output = str(folder / "_ext.abi3.so")
    command = [*shlex.split(sysconfig.get_config_var("CC")), *options, "-o", output, *map(str, folder.glob("*.c"))]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    return compiled.stderr if compiled.returncode else None


def is_of_c(mutation: dict[str, Any]) -> bool:
    return mutation["file"].endswith((".c", ".h"))


def survives(unbroken: Path, mutation: dict[str, Any]) -> str | None:
    """None if the mutation turns its test red, else what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(unbroken, copy)
        path = copy / mutation["file"]
        text = path.read_text()
        if text.count(mutation["old"]) != 1:
            return f"its text is in {mutation['file']} {text.count(mutation['old'])} times"
        path.write_text(text.replace(mutation["old"], mutation["new"]))
        of_c = is_of_c(mutation)
        if of_c and (problem := build(copy)):
            return f"it cannot be compiled:\n{problem}"
        result = run([mutation["test"]], copy, plain=bool(mutation.get("plain")))
        failed = result.returncode == 1 and "failed" in result.stdout
        crashed = of_c and result.returncode < 0
        if failed or crashed:
            return None
        return f"{mutation['test']} did not fail (status {result.returncode}):\n{result.stdout[-2000:]}{result.stderr}"


def main(names: list[str]) -> int:
    tables = [table for table in TABLES if not names or table.name.removesuffix("_mutations.toml") in names]
    mutations = [row for table in tables for row in tomllib.loads(table.read_text())["mutation"]]
    if not NATIVE:
        mutations = [row for row in mutations if not is_of_c(row) and not row.get("native")]
    failures = 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        unbroken = Path(folder)
        for name in COPIED:
            copier = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copier(ROOT / name, unbroken / name)
        if NATIVE and (problem := build(unbroken)):
            print(problem)
            return 1
        for plain in (False, True):
            tests = sorted({row["test"] for row in mutations if bool(row.get("plain")) is plain})
            unchanged = run(tests, unbroken, plain=plain) if tests else None
            if unchanged is not None and unchanged.returncode:
                print(unchanged.stdout, unchanged.stderr)
                return 1
        problems = pool.map(functools.partial(survives, unbroken), mutations)
        for mutation, problem in zip(mutations, problems, strict=True):
            print(f"{'SURVIVED' if problem else 'caught  '}  {mutation['name']}  [{mutation['test']}]", flush=True)
            if problem:
                failures += 1
                print(problem)
    print(f"{len(mutations) - failures} of {len(mutations)} mutations caught")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
