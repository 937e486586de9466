"""The command line of studies: plain key=value, so that it answers at once."""

import glob
import sys
from pathlib import Path

from rdt.config.keys import command, parsed

USAGE = """usage: python -m rdt.study runs=<dir or glob>[,...] [pairs=60] [set=1] [settings=...] [seed=0] [out=<dir>]
       python -m rdt.study tally <votes.json> ... [key=<key.json>] [out=<dir>]

  runs      run folders, or folders of them at any depth; their sample grids are what is shown
  pairs     how many pairs a rater sees, the same number of every two settings; 60, or as many as there are
  set       images a side; with 2 or more there is a question about diversity too
  settings  which to compare: names of the report, separated by commas, * for any letters; all unless given
  seed      of which pictures are shown, where and when
  out       where study.html and key.json go, study/ in the folder that runs= names; where tally.csv goes, the key's
  key       the key.json that the study was written with; sought beside and above the votes, and here"""
STUDY = {"runs": "", "pairs": "", "set": "1", "settings": "", "seed": "0", "out": ""}
TALLY = {"key": "", "out": ""}


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, or 2 after one line on stderr."""
    return command(USAGE, _act, argv)


def _act(arguments: list[str]) -> None:
    if arguments[0] == "tally":
        _tally(arguments[1:])
    else:
        _study(arguments)


def _study(arguments: list[str]) -> None:
    from rdt.report.read import home, matches
    from rdt.study import study
    from rdt.study.design import Order
    from rdt.study.terminal import print_written

    given = parsed(arguments, STUDY)
    if not given["runs"]:
        raise ValueError("runs= is missing")
    pairs = _number(given, "pairs", least=1) if given["pairs"] else None
    order = Order(pairs, _number(given, "set", least=1), _number(given, "seed", least=0))
    patterns = given["runs"].split(",")
    sources = [path for pattern in patterns for path in matches(pattern)]
    out = Path(given["out"]).expanduser() if given["out"] else home(patterns[0]) / "study"
    print_written(study(sources, out, order, given["settings"]))


def _tally(arguments: list[str]) -> None:
    from rdt.study import write
    from rdt.study.tally import agreement, rows, tally_csv
    from rdt.study.terminal import print_tally
    from rdt.study.votes import read_key, read_votes

    patterns = [argument for argument in arguments if argument.partition("=")[0] not in TALLY]
    given = parsed([argument for argument in arguments if argument not in patterns], TALLY)
    files = [Path(name) for pattern in patterns for name in sorted(glob.glob(pattern)) or [pattern]]
    if not files:
        raise ValueError("no votes: want the JSON files that raters saved")
    where = Path(given["key"]).expanduser() if given["key"] else _key_near(files[0])
    key = read_key(where)
    votes = read_votes((file for file in files if file.resolve() != where.resolve()), key)
    found = rows(key, votes)
    if not found:
        raise ValueError(f"{len(files)} files hold no vote")
    out = Path(given["out"]).expanduser() if given["out"] else where.parent
    out.mkdir(parents=True, exist_ok=True)
    write(out / "tally.csv", tally_csv(found, agreement(key, votes)))
    print_tally(found, agreement(key, votes), votes)
    print(f"table    {out / 'tally.csv'}")


def _key_near(votes: Path) -> Path:
    places = [folder / "key.json" for folder in (votes.parent, votes.absolute().parent.parent, Path())]
    for place in places:
        if place.is_file():
            return place
    raise ValueError(f"no key.json beside or above {votes}, or here; give key=")


def _number(given: dict[str, str], key: str, least: int) -> int:
    if not given[key].isdecimal() or int(given[key]) < least:
        raise ValueError(f"{key}={given[key]}; want a whole number, {least} or more")
    return int(given[key])


if __name__ == "__main__":
    sys.exit(main())
