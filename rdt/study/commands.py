"""The commands `rdt study` and `rdt study tally`: plain key=value, so that help and errors need no slow import."""

import glob
from pathlib import Path

from rdt.config.keys import command, parsed_keys

USAGE = """usage: python -m rdt.study runs=<dir or glob>[,...] [pairs=60] [set=1] [settings=...] [seed=0] [out=<dir>]
       python -m rdt.study tally <votes.json> ... [key=<key.json>] [out=<dir>]

  runs      run folders, or folders that hold them at any depth; their sample grids are shown
  pairs     how many pairs a rater sees, the same number for every two settings; 60, or fewer if the grids hold fewer
  set       images per side; with 2 or more there is a question about diversity too
  settings  which to compare: names of the report, separated by commas, * for any letters; all unless given
  seed      decides which pictures are shown, on which side and in which order
  out       folder for study.html and key.json, by default study/ in the folder that runs= names; of tally.csv, by
            default the key's folder
  key       the key.json that was written with the study; by default searched beside and above the votes, and here"""
STUDY = {"runs": "", "pairs": "", "set": "1", "settings": "", "seed": "0", "out": ""}
TALLY = {"key": "", "out": ""}


def entry(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, or 1 after one line on stderr."""
    return command(USAGE, _run, argv)


def _run(arguments: list[str]) -> None:
    if arguments[0] == "tally":
        _tally(arguments[1:])
    else:
        _study(arguments)


def _study(arguments: list[str]) -> None:
    from rdt.files import check_writable
    from rdt.report.read import home, named_folders, split_names
    from rdt.study.design import Options
    from rdt.study.page import print_study, write_study

    given = parsed_keys(arguments, STUDY)
    if not given["runs"]:
        raise ValueError("runs= is missing; give run folders, such as runs=multirun/*")
    pairs = _number(given, "pairs", least=1) if given["pairs"] else None
    options = Options(pairs, _number(given, "set", least=1), _number(given, "seed", least=0))
    folders, first = named_folders(given["runs"]), split_names(given["runs"])[0]
    out = Path(given["out"]).expanduser() if given["out"] else home(first) / "study"
    check_writable("out", out)
    print_study(write_study(folders, out, options, given["settings"]))


def _vote_files(patterns: list[str]) -> list[Path]:
    """Return the files that the patterns name; ValueError if there are none."""
    files = [Path(name) for pattern in patterns for name in _files(pattern)]
    if not files:
        raise ValueError("no votes are given; give the JSON files that raters saved")
    return files


def _tally(arguments: list[str]) -> None:
    from rdt.files import check_writable, write_text
    from rdt.study.ranking import print_ranking, ranking, ranking_csv
    from rdt.study.tally import agreement, preferences, print_tally, tally_csv
    from rdt.study.votes import read_key, read_votes
    from rdt.text import printable

    patterns = [argument for argument in arguments if argument.partition("=")[0] not in TALLY]
    given = parsed_keys([argument for argument in arguments if argument not in patterns], TALLY)
    files = _vote_files(patterns)
    key_file = Path(given["key"]).expanduser() if given["key"] else _key_near(files[0])
    key = read_key(key_file)
    votes = read_votes((file for file in files if file.resolve() != key_file.resolve()), key)
    rows, alphas, ranks = preferences(key, votes), agreement(key, votes), ranking(key, votes)
    if not rows:
        raise ValueError(f"{len(files)} files hold no vote")
    folder = Path(given["out"]).expanduser() if given["out"] else key_file.parent
    check_writable("out", folder)
    folder.mkdir(parents=True, exist_ok=True)
    tables = {folder / "tally.csv": tally_csv(rows, alphas), folder / "ranks.csv": ranking_csv(ranks)}
    for table, text in tables.items():
        write_text(table, text)
    print_tally(rows, alphas, votes)
    print_ranking(ranks)
    print(f"tables   {', '.join(map(printable, tables))}")


def _files(pattern: str) -> list[str]:
    """Return the file of exactly this name, or else those that a glob matches, or else the name."""
    return [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern)) or [pattern]


def _key_near(votes: Path) -> Path:
    """Return the key.json beside the votes, in the folder above, or in the working directory; ValueError if none."""
    places = [folder / "key.json" for folder in (votes.parent, votes.absolute().parent.parent, Path())]
    for place in places:
        if place.is_file():
            return place
    raise ValueError(f"there is no key.json beside or above {votes}, or here; give key=")


def _number(given: dict[str, str], key: str, least: int) -> int:
    if not given[key].isdecimal() or int(given[key]) < least:
        raise ValueError(f"{key}={given[key]}; expected a whole number, {least} or more")
    return int(given[key])
