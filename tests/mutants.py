"""Break the code on purpose, one function at a time; each mutation must turn the test that it names red.

``make mutants`` runs the table ``tests/mutations.toml``; words as arguments take only the mutations whose function or
name contains one of them. The work is done on copies: the checkout is not touched.

A mutation names a function, as ``file::function`` or ``file::Class.method``, and one change in it:

``drop = "name"``
    the statements that call *name* are left out
``never = "name"``, ``always = "name"``
    each condition that mentions *name* is false, or true
``swap = "name"``
    each call of *name* gets its first two arguments in the other order
``old = "text"``, ``new = "text"``
    text is replaced. Python is compared as :func:`ast.unparse` prints it, C with every run of white space as one space,
    so neither comments nor line breaks matter.

With ``python = true`` the test runs without the extension in C, which would stand in for what is broken.
"""

import ast
import functools
import os
import re
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
TABLE = Path(__file__).with_name("mutations.toml")
COPIED = ("benchmarks", "docs", "interop", "tests", "README.md", "pyproject.toml", "setup.py")
EXTENSION = "interop/_native"


class DoesNotApplyError(Exception):
    """A mutation's function is not there, or the change would change nothing."""


# -- the changes --------------------------------------------------------------------------------------------------


def mutated(source: str, mutation: dict[str, Any]) -> str:
    """The text of the file with the mutation in it."""
    file, _, function = mutation["function"].partition("::")
    mutate = _mutated_python if file.endswith(".py") else _mutated_c
    return mutate(source, function, mutation)


def _mutated_python(source: str, function: str, mutation: dict[str, Any]) -> str:
    tree = ast.parse(source)
    node = _python_function(tree, function)
    before = ast.unparse(node)
    if "old" in mutation:
        after = _replaced(before, mutation)
        node.body = ast.parse(after).body[0].body  # type: ignore[attr-defined]
    else:
        [change] = {"drop", "never", "always", "swap"} & mutation.keys()
        node.body = [_Change(change, mutation[change]).visit(statement) for statement in node.body]
    if ast.unparse(node) == before:
        message = f"it changes nothing in {mutation['function']}"
        raise DoesNotApplyError(message)
    return ast.unparse(ast.fix_missing_locations(tree))


def _python_function(tree: ast.Module, name: str) -> Any:
    node: Any = tree
    for part in name.split("."):
        node = next((child for child in ast.walk(node) if getattr(child, "name", None) == part), None)
        if node is None:
            message = f"there is no {name}"
            raise DoesNotApplyError(message)
    return node


class _Change(ast.NodeTransformer):
    """Makes one change of the table, at each place in the function that it fits."""

    def __init__(self, change: str, name: str) -> None:
        self.change, self.name = change, name

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        calls = (child.func for child in ast.walk(node) if isinstance(child, ast.Call))
        if self.change == "drop" and any(_is_named(function, self.name) for function in calls):
            return ast.Pass()
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if self.change == "swap" and _is_named(node.func, self.name):
            node.args[0], node.args[1] = node.args[1], node.args[0]
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        test = getattr(node, "test", None)
        mentions = test is not None and any(_is_named(child, self.name) for child in ast.walk(test))
        if self.change in ("never", "always") and mentions:
            node.test = ast.Constant(self.change == "always")  # type: ignore[attr-defined]
        return super().generic_visit(node)


def _is_named(node: ast.AST, name: str) -> bool:
    return name in (getattr(node, "id", None), getattr(node, "attr", None))


def _mutated_c(source: str, function: str, mutation: dict[str, Any]) -> str:
    # In these sources, a definition begins in the first column, and its body ends there.
    # A fast method has a macro for its head.
    head = rf"(?:(?:\w[^\n;]*\b)?{function}\([^;{{]*\)|METHOD\({function}\))"
    found = re.search(rf"^{head}\n\{{.*?^\}}", source, re.MULTILINE | re.DOTALL)
    if found is None:
        message = f"there is no {function}"
        raise DoesNotApplyError(message)
    # A directive of the preprocessor must stay on a line of its own.
    lines = ["\n" + line + "\n" if line.startswith("#") else line for line in found[0].split("\n")]
    body = re.sub(r"[ \t]+", " ", " ".join(lines))
    return source[: found.start()] + _replaced(body, mutation) + source[found.end() :]


def _replaced(text: str, mutation: dict[str, Any]) -> str:
    if mutation["old"] not in text:
        message = f"its text is not in {mutation['function']}:\n{text}"
        raise DoesNotApplyError(message)
    return text.replace(mutation["old"], mutation["new"])


# -- running them -------------------------------------------------------------------------------------------------


def run(tests: list[str], package: Path, *, python: bool) -> subprocess.CompletedProcess[str]:
    """Run tests on a copy; *python* leaves the extension out."""
    environment = {**os.environ, "PYTHONPATH": str(package), "INTEROP_NATIVE": "0" if python else ""}
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    return subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, check=False)


def build(package: Path) -> str | None:
    """Build the extension. Returns None, or the errors of the compiler."""
    folder = package / EXTENSION
    for built in folder.glob("*.so"):
        built.unlink()
    options = ["-w", "-shared", "-fPIC", "-fvisibility=hidden", f"-I{sysconfig.get_path('include')}"]
    output = str(folder / "_ext.abi3.so")
    command = [*shlex.split(sysconfig.get_config_var("CC")), *options, "-o", output, *map(str, folder.glob("*.c"))]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    return compiled.stderr if compiled.returncode else None


def survives(unbroken: Path, mutation: dict[str, Any]) -> str | None:
    """None if the mutation turns its test red, else what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(unbroken, copy)
        path = copy / mutation["function"].partition("::")[0]
        try:
            path.write_text(mutated(path.read_text(), mutation))
        except DoesNotApplyError as error:
            return str(error)
        is_c = path.suffix == ".c"
        if is_c and (problem := build(copy)):
            return f"it cannot be compiled:\n{problem}"
        result = run([mutation["test"]], copy, python=bool(mutation.get("python")))
        failed = result.returncode == 1 and "failed" in result.stdout
        crashed = is_c and result.returncode < 0
        if failed or crashed:
            return None
        return f"{mutation['test']} did not fail (status {result.returncode}):\n{result.stdout[-2000:]}{result.stderr}"


def main(words: list[str]) -> int:
    """Try the mutations; returns the exit status."""
    table = tomllib.loads(TABLE.read_text())["mutation"]
    chosen = [row for row in table if not words or any(word in row["function"] + row["name"] for word in words)]
    survivors = 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        unbroken = Path(folder)
        for name in COPIED:
            copier = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copier(ROOT / name, unbroken / name)
        if problem := build(unbroken):
            print(problem)
            return 1
        for python in (False, True):
            tests = sorted({row["test"] for row in chosen if bool(row.get("python")) is python})
            unchanged = run(tests, unbroken, python=python) if tests else None
            if unchanged is not None and unchanged.returncode:
                print(unchanged.stdout, unchanged.stderr)
                return 1
        problems = pool.map(functools.partial(survives, unbroken), chosen)
        for mutation, problem in zip(chosen, problems, strict=True):
            print(f"{'SURVIVED' if problem else 'caught  '}  {mutation['name']}  [{mutation['test']}]", flush=True)
            survivors += bool(problem)
            if problem:
                print(problem)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutations caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
