"""The command line: ``python -m interop check``, ``demo``, ``matrix`` and ``doctor``."""

import argparse
import importlib
import sys
from typing import Final

from interop import __version__

_PROGRAMS: Final = {
    "check": "interop.ledger.command",
    "demo": "interop.demo",
    "doctor": "interop.diagnosis",
    "matrix": "interop.matrix.report",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m interop", description="Share CUDA streams between libraries.")
    parser.add_argument("--version", action="version", version=f"interop {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    check = commands.add_parser(
        "check",
        help="run a program that uses a GPU, and report the accesses that nothing orders; status 1 if there is a race",
        usage="python -m interop check [--json | --sarif] [--fail-on {race,may}] [-m] PROGRAM [ARGUMENT ...]",
    )
    form = check.add_mutually_exclusive_group()
    for name in ("json", "sarif"):
        form.add_argument(
            f"--{name}", dest="form", action="store_const", const=name, default="text", help=f"print {name.upper()}"
        )
    check.add_argument("--fail-on", choices=["race", "may"], default="race", help="what makes the status 1")
    check.add_argument(
        "--eye", choices=["driver", "libraries"], help="what sees the calls; by default the best there is"
    )
    check.add_argument("-m", dest="is_module", action="store_true", help="PROGRAM is the name of a module")
    check.add_argument("program", nargs=argparse.REMAINDER, metavar="PROGRAM", help="the program and its arguments")
    demo = commands.add_parser(
        "demo", help="two libraries share a stream, then work on two, in order: on the GPU, or simulated without one"
    )
    demo.add_argument("--forget-wait", action="store_true", help="leave the wait out, and show what goes wrong")
    matrix = commands.add_parser(
        "matrix",
        help="hand arrays between all libraries, by default and through interop; show which races (needs a GPU)",
    )
    matrix.add_argument("--json", action="store_true", help="print the rows as JSON")
    matrix.add_argument("--only", metavar="NAMES", help="comma-separated import paths, such as cupy,torch")
    doctor = commands.add_parser(
        "doctor",
        help="the machine, the libraries, their current streams, and what to fix; status 1 if there is a warning",
    )
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.add_argument(
        "--probe", action="store_true", help="also import every installed library, and hand it a stream"
    )
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    if options.command == "check" and not options.program:
        check.error("name a program")
    try:
        program = importlib.import_module(_PROGRAMS[options.command])  # NumPy is an extra
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        print("This needs numpy: pip install numpy", file=sys.stderr)
        return 2
    if options.command == "check":
        return int(
            program.main(
                options.program,
                version=__version__,
                is_module=options.is_module,
                form=options.form,
                fail_on=options.fail_on,
                eye=options.eye,
            )
        )
    if options.command == "demo":
        return int(program.main(forget_wait=options.forget_wait))
    if options.command == "doctor":
        return int(program.main(__version__, as_json=options.json, probe=options.probe))
    return int(program.main(as_json=options.json, only=options.only.split(",") if options.only else None))


if __name__ == "__main__":
    sys.exit(main())
