"""The command line: ``python -m interop demo``, ``matrix`` and ``doctor``."""

import argparse
import importlib
import sys
from typing import Final

from interop import __version__

_PROGRAMS: Final = {"demo": "interop.demo", "doctor": "interop.diagnosis", "matrix": "interop.matrix.report"}


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m interop", description="Share CUDA streams between libraries.")
    parser.add_argument("--version", action="version", version=f"interop {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
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
    try:
        program = importlib.import_module(_PROGRAMS[options.command])  # NumPy is an extra
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        print("This needs numpy: pip install numpy", file=sys.stderr)
        return 2
    if options.command == "demo":
        return int(program.main(forget_wait=options.forget_wait))
    if options.command == "doctor":
        return int(program.main(__version__, as_json=options.json, probe=options.probe))
    return int(program.main(as_json=options.json, only=options.only.split(",") if options.only else None))


if __name__ == "__main__":
    sys.exit(main())
