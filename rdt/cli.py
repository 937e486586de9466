"""The `rdt` command: `rdt run ...`, and `evaluate`, `report`, `dashboard` and the others in the same way."""

import sys
from importlib import import_module

PACKAGES = {"report": "rdt.report.__main__"}
COMMANDS = ("run", "evaluate", "report", "sample", "serve", "study", "dashboard")


def main() -> None:
    """Hand over to the command's module; bare overrides mean `run`."""
    arguments = sys.argv[1:]
    command = arguments.pop(0) if arguments and arguments[0] in COMMANDS else "run"
    sys.argv = [f"rdt {command}", *arguments]
    sys.exit(import_module(PACKAGES.get(command, f"rdt.{command}")).entry())
