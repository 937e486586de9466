"""The `rdt` command: `rdt run ...`, `rdt evaluate ...` and so on are the modules of these names.

Bare `rdt` and `rdt --help` list the commands, and `eval "$(rdt -sc install=bash)"` makes a shell complete commands,
groups and keys.
"""

import difflib
import os
import shlex
import sys
from dataclasses import dataclass
from importlib import import_module

from rdt import credentials
from rdt.config.imports import working_directory_on_path
from rdt.errors import UsageError, one_line


@dataclass(frozen=True)
class Command:
    """Describes one command of `rdt`."""

    summary: str
    keys: tuple[str, ...] = ()  # what a shell completes; those of the others are Hydra's
    module: str = ""  # where its `entry` is, if not in rdt.<name>


COMMANDS = {
    "run": Command("train on a reward, evaluate, record, report; with -m, one run for each combination of values"),
    "evaluate": Command("evaluate a finished run under another guidance, or any adapter beside its base"),
    "sample": Command("draw images of a finished run beside its base's"),
    "report": Command("compare any set of runs", ("runs=", "out=", "axes=", "wandb="), "rdt.report.__main__"),
    "study": Command(
        "write a page for a blind comparison by people, and tally its votes",
        ("runs=", "pairs=", "set=", "settings=", "seed=", "out=", "tally", "key="),
    ),
    "serve": Command("serve a reward over HTTP, for reward=remote"),
    "dashboard": Command(
        "save a workspace for a W&B project", ("entity=", "project=", "reward=", "diversity=", "name=")
    ),
}
EXAMPLES = (
    "rdt run method=sqdf reward=hps",
    "rdt run -m method.kl_coef=0,0.1,1 seed=0,1",
    "rdt evaluate run=<dir> guidance=aig 'guidance.curve=[1,2,4]'",
    "rdt report runs=<dir or glob>",
    'rdt sample run=<dir> prompt="a circle" n=16',
)
HELP = ("-h", "--help", "help")
COMPLETION = ("-sc", "--shell-completion", "--shell_completion")


def usage() -> str:
    """Return the commands with a line each, and examples."""
    lines = [f"  {name:<10} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join([
        "usage: rdt <command> [key=value ...]", "", *lines, "",
        "examples:", *(f"  {example}" for example in EXAMPLES), "",
        "rdt <command> --help lists its keys; with dry_run=true, rdt run says what it would do and cost.",
        'eval "$(rdt -sc install=bash)" completes commands, groups and keys in bash, likewise zsh and fish.',
    ])  # fmt: skip


def main() -> None:
    """Run the module that the first argument names, list the commands if there is none, or complete a command line."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in HELP:
        print(usage())
    elif arguments[0].partition("=")[0] in COMPLETION:
        complete(arguments)
    else:
        with one_line():
            credentials.check_typed(arguments)  # first, because messages repeat arguments
            check_command(arguments)
        run_command(arguments[0], arguments[1:])


def run_command(name: str, arguments: list[str], program: str = "") -> None:
    """Run a command and exit with its status."""
    working_directory_on_path()
    sys.argv = [program or f"rdt {name}", *arguments]
    sys.exit(import_module(COMMANDS[name].module or f"rdt.{name}").entry())


def check_command(arguments: list[str]) -> None:
    """Raise UsageError, with what was probably meant, unless the first argument is a command."""
    first = arguments[0]
    if first in COMMANDS:
        return
    if "=" in first or first.startswith("-"):
        raise UsageError(f"{first} is not a command; to train with it: rdt run {shlex.join(arguments)}")
    close = difflib.get_close_matches(first, COMMANDS, n=1, cutoff=0.4)
    hint = f"did you mean rdt {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"
    raise UsageError(f"{first} is not a command; {hint}")


def complete(arguments: list[str]) -> None:
    """Print what a shell asks: the script that installs completion, or the words that may follow in COMP_LINE."""
    line = os.environ.get("COMP_LINE", "rdt")
    asked = " ".join(arguments).replace("=", " ").split()
    words = line.split(" ")[1:]
    if "query" not in asked:
        run_command("run", arguments, program="rdt")
    elif len(words) < 2:
        print("\n".join(name for name in COMMANDS if name.startswith(words[0] if words else "")))
    elif words[0] in COMMANDS and COMMANDS[words[0]].keys:
        print("\n".join(key for key in COMMANDS[words[0]].keys if key.startswith(words[-1])))
    elif words[0] in COMMANDS:
        os.environ["COMP_LINE"] = " ".join(["rdt", *words[1:]])
        run_command(words[0], arguments, program="rdt")
