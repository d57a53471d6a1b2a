"""``python -m interop check program.py``: run a program under a ledger, and report what nothing orders."""

import contextlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

from interop._order.findings import Finding, Party
from interop.ledger.ledger import Ledger
from interop.ledger.session import check

SCHEMA: Final = 1
"""The version of the JSON. It grows when a key is removed or changes its meaning."""


def main(program: Sequence[str], *, version: str, is_module: bool, form: str, fail_on: str, eye: Any) -> int:
    """Run *program*, and print the report.

    Args:
        program: a file, or the name of a module, and the program's own arguments.
        version: interop's, for SARIF.
        is_module: whether *program* begins with the name of a module.
        form: ``text``, ``json`` or ``sarif``. With the last two, what the program prints goes to standard error.
        fail_on: ``race``, or ``may`` for what may be a race too.
        eye: as for :func:`interop.ordering.check`.

    Returns:
        The program's own exit status if it is not 0; else 1 if something was found that is to fail, and 0 if not.
    """
    try:
        code, name = _code(program[0], is_module=is_module)
    except (OSError, ImportError, SyntaxError) as error:
        print(f"interop check: {program[0]} cannot be read: {error}", file=sys.stderr)
        return 2
    main = ModuleType("__main__")
    main.__dict__.update(__file__=name, __builtins__=__builtins__)
    kept = FunctionType(code, main.__dict__)  # as long as it lives, the lines of the code can be told
    output = contextlib.nullcontext() if form == "text" else contextlib.redirect_stdout(sys.stderr)
    with check(raises=False, eye=eye) as ledger, output:
        status = _run(kept, main, [name, *program[1:]])
    if form == "text":
        print(_text(ledger))
    else:
        print(json.dumps(_as_json(ledger) if form == "json" else _as_sarif(ledger, version), indent=2))
    found = ledger.races or (ledger.unknown if fail_on == "may" else [])
    return status or (1 if found else 0)


def _code(program: str, *, is_module: bool) -> tuple[CodeType, str]:
    """The code to run, and the file that it is from.

    Raises:
        ImportError: there is no such module, or it has no code in Python.
    """
    if not is_module:
        return compile(Path(program).read_bytes(), program, "exec"), program
    spec = importlib.util.find_spec(program)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{program}.__main__")
    code = getattr(spec.loader, "get_code", lambda _: None)(spec.name) if spec is not None else None
    if spec is None or code is None:
        message = "there is no such module, or it has no code in Python"
        raise ImportError(message)
    return code, spec.origin or program


def _run(code: FunctionType, main: ModuleType, arguments: list[str]) -> int:
    """Run the code as the program. Returns its exit status."""
    with _as_program(main, arguments):
        try:
            exec(code.__code__, main.__dict__)  # noqa: S102  (it is the program)
        except SystemExit as end:
            return _status(end)
        except BaseException as error:  # noqa: BLE001  (whatever ends the program, the report is printed)
            trace = error.__traceback__
            traceback.print_exception(error.with_traceback(trace.tb_next if trace else None))
            return 1
    return 0


@contextlib.contextmanager
def _as_program(main: ModuleType, arguments: list[str]) -> Iterator[None]:
    before = sys.argv, sys.path[:], sys.modules["__main__"]
    sys.argv, sys.modules["__main__"] = arguments, main
    sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
    try:
        yield
    finally:
        sys.argv, sys.path[:], sys.modules["__main__"] = before


def _status(end: SystemExit) -> int:
    """The exit status that Python itself would end with."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def _text(ledger: Ledger) -> str:
    lines = [str(ledger), f"eye: {ledger.eye}"]
    lines += [f"not seen: {what}" for what in ledger.blind]
    return "\n".join(lines)


def _as_json(ledger: Ledger) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "eye": str(ledger.eye),
        "races": [_finding(finding) for finding in ledger.races],
        "unknown": [_finding(finding) for finding in ledger.unknown],
        "blind": list(ledger.blind),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    data = asdict(finding)
    for party in ("earlier", "later"):
        data[party]["kind"] = data[party]["kind"].verb
    return data


def _as_sarif(ledger: Ledger, version: str) -> dict[str, Any]:
    rules = {"race": "Two accesses of one array that nothing orders", "may-race": "Two accesses that may be unordered"}
    results = [
        {
            "ruleId": "may-race" if finding.uncertainty else "race",
            "level": "warning" if finding.uncertainty else "error",
            "message": {"text": str(finding)},
            "locations": [_location(finding.later)],
            "relatedLocations": [_location(finding.earlier)],
        }
        for finding in (*ledger.races, *ledger.unknown)
    ]
    tool = {
        "name": "interop check",
        "version": version,
        "rules": [{"id": name, "shortDescription": {"text": text}} for name, text in rules.items()],
    }
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return {"$schema": schema, "version": "2.1.0", "runs": [{"tool": {"driver": tool}, "results": results}]}


def _location(party: Party) -> dict[str, Any]:
    file, _, line = party.where.rpartition(":")
    if not line.isdecimal():
        return {"message": {"text": party.where}}
    place = {"artifactLocation": {"uri": file}, "region": {"startLine": int(line)}}
    return {"physicalLocation": place, "message": {"text": party.by}}
