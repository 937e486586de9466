"""The command line of the report; it takes plain key=value arguments, which need no heavy imports."""

import sys
from pathlib import Path

from rdt import files
from rdt.config.keys import command, parsed_keys
from rdt.report.read import home, named_folders, split_names

USAGE = """usage: python -m rdt.report runs=<dir or glob> [out=<dir>] [axes=difference|absolute] [wandb=true|false]

  runs   run folders, or folders that hold them at any depth; a glob; or several of these separated by commas
  out    where report.html, front.png and front.csv are written; by default the folder that runs= names
  axes   what front.png, front.svg and front.tex hold: paired differences to the base, or the scores themselves
  wandb  also log the front to W&B as a run of job type pareto, offline if no account is configured"""
KEYS = {"runs": "", "out": "", "axes": "difference", "wandb": "false"}
AXES = {"difference": False, "absolute": True}
FLAGS = {"true": True, "false": False}


def main(argv: list[str] | None = None) -> int:
    """Write a report; return exit status 0, or 1 after one line on stderr."""
    return command(USAGE, _report, argv)


def entry() -> int:
    """Run the command `rdt report`."""
    return main()


def _report(arguments: list[str]) -> None:
    given = parsed_keys(arguments, KEYS)
    if not given["runs"]:
        raise ValueError("runs= is missing: want a run folder, a folder of them or a glob")
    if given["wandb"] not in FLAGS:
        raise ValueError(f"wandb={given['wandb']}; want true or false")
    if given["axes"] not in AXES:
        raise ValueError(f"axes={given['axes']}; want difference or absolute")
    folders = named_folders(given["runs"])
    out = Path(given["out"]).expanduser() if given["out"] else home(split_names(given["runs"])[0])
    files.check_writable("out", out)
    from rdt.report.write import report

    report(folders, out, wandb=FLAGS[given["wandb"]], absolute=AXES[given["axes"]])


if __name__ == "__main__":
    sys.exit(main())
