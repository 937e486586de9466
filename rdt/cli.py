"""The `rdt` command: `rdt run ...`, `rdt evaluate ...` and so on are the modules of these names."""

import sys
from importlib import import_module

PACKAGES = {"report": "rdt.report.__main__"}
COMMANDS = ("run", "evaluate", "report", "sample", "serve", "study", "dashboard")


def main() -> None:
    """Run the module that the first argument names; without one, the arguments are overrides of `run`."""
    arguments = sys.argv[1:]
    command = arguments.pop(0) if arguments and arguments[0] in COMMANDS else "run"
    sys.argv = [f"rdt {command}", *arguments]
    sys.exit(import_module(PACKAGES.get(command, f"rdt.{command}")).entry())
