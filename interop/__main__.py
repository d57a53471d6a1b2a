"""The command line: ``python -m interop demo``."""

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m interop", description="Share CUDA streams between libraries.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo", help="two libraries share a stream, then work on two, in order: on the GPU, or else simulated"
    )
    demo.add_argument("--forget-wait", action="store_true", help="leave the wait out, and see what goes wrong")
    options = parser.parse_args(arguments)
    try:
        from interop import demo as program  # noqa: PLC0415  (rich and NumPy are extras)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("rich", "numpy"):
            raise
        print(f'The demo needs {missing}: pip install "cuda-stream-interop[demo]"', file=sys.stderr)
        return 2
    return program.main(forget_wait=options.forget_wait)


if __name__ == "__main__":
    sys.exit(main())
