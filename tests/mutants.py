"""Break the code on purpose, one small change at a time; each must turn the named test red.

Run by ``make mutants``; names of tables as arguments take only those. Works on a copy: the checkout is not touched.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLES = sorted(Path(__file__).parent.glob("*mutations.toml"))


def run(tests: list[str], package: Path, *, plain: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(package), **({"INTEROP_NATIVE": "0"} if plain else {})}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, check=False)


def survives(mutation: dict[str, str]) -> str | None:
    """None if the mutation turns its test red, else what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("benchmarks", "docs", "interop", "tests", "README.md", "pyproject.toml"):
            source = ROOT / name
            copier = shutil.copytree if source.is_dir() else shutil.copy
            copier(source, copy / name)
        path = copy / mutation["file"]
        text = path.read_text()
        if text.count(mutation["old"]) != 1:
            return f"its text is in {mutation['file']} {text.count(mutation['old'])} times"
        path.write_text(text.replace(mutation["old"], mutation["new"]))
        # What the extension in C stands in for is broken where it is left out.
        result = run([mutation["test"]], copy, plain=bool(mutation.get("plain")))
        if result.returncode == 1 and "failed" in result.stdout:
            return None
        return f"{mutation['test']} did not fail (status {result.returncode}):\n{result.stdout[-2000:]}{result.stderr}"


def main(names: list[str]) -> int:
    tables = [table for table in TABLES if not names or table.name.removesuffix("_mutations.toml") in names]
    mutations = [row for table in tables for row in tomllib.loads(table.read_text())["mutation"]]
    unchanged = run(sorted({row["test"] for row in mutations}), ROOT)
    if unchanged.returncode:
        print(unchanged.stdout, unchanged.stderr)
        return 1
    failures = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for mutation, problem in zip(mutations, pool.map(survives, mutations), strict=True):
            print(f"{'SURVIVED' if problem else 'caught  '}  {mutation['name']}  [{mutation['test']}]", flush=True)
            if problem:
                failures += 1
                print(problem)
    print(f"{len(mutations) - failures} of {len(mutations)} mutations caught")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
