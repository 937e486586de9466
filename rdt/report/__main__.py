"""The command line of the report: plain key=value, so that it answers at once."""

import sys
from pathlib import Path

from rdt.report.folders import home, matches

USAGE = """usage: python -m rdt.report runs=<dir or glob> [out=<dir>] [wandb=true|false]

  runs   run folders, or folders of them at any depth; a glob, or several separated by commas
  out    where report.html, front.png and front.csv go; the folder that runs= names unless given
  wandb  also log the front as a run of job type pareto; offline where no account is configured"""
KEYS = {"runs": None, "out": "", "wandb": "false"}
FLAGS = {"true": True, "false": False}


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, or 2 after one line on stderr."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or {"-h", "--help", "help"} & set(arguments):
        print(USAGE)
        return 0 if arguments else 2
    try:
        given = _parsed(arguments)
        sources = [path for pattern in given["runs"].split(",") for path in matches(pattern)]
        out = Path(given["out"]).expanduser() if given["out"] else home(given["runs"].split(",")[0])
        from rdt.report import report

        page = report(sources, out, wandb=FLAGS[given["wandb"]])
    except (OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"report   {page}\npicture  {page.with_name('front.png')}\ntable    {page.with_name('front.csv')}")
    return 0


def _parsed(arguments: list[str]) -> dict[str, str]:
    given = {key: default for key, default in KEYS.items() if default is not None}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in KEYS or not value:
            raise ValueError(f"{argument!r} is none of {', '.join(f'{known}=...' for known in KEYS)}")
        given[key] = value
    if "runs" not in given:
        raise ValueError("runs= is missing: want a run folder, a folder of them or a glob")
    if given["wandb"] not in FLAGS:
        raise ValueError(f"wandb={given['wandb']}; want true or false")
    return given


if __name__ == "__main__":
    sys.exit(main())
