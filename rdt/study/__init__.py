"""A blind comparison by people: study.html for the raters, key.json for the researcher, and the tally of the votes.

`python -m rdt.study runs=<dir or glob>[,...] pairs=60 [set=4]`, then `python -m rdt.study tally votes/*.json`
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdt.report.read import Failure
from rdt.study.design import Order, designed
from rdt.study.sources import chosen, settings_of

PAGE, KEY = "study.html", "key.json"


@dataclass(frozen=True)
class Written:
    """A study that is ready to be sent."""

    page: Path
    key: dict[str, Any]
    failures: list[Failure]  # folders that no picture came from


def study(run_dirs: list[Path], out: Path, order: Order, names: str = "") -> Written:
    """Write the page and its key into out, of the settings that `names` picks from those of all runs.

    ValueError where a picture is missing, too few are recorded, or out holds the key of another study.
    """
    from rdt.report.read import read_runs
    from rdt.study.page import key_of, page

    runs, failures = read_runs(run_dirs)
    if not runs:
        raise ValueError(f"no usable run in {', '.join(map(str, run_dirs[:3]))}: want folders that hold a result.json")
    settings = chosen(settings_of(runs), names)
    pairs = designed(settings, order)
    key = key_of(settings, pairs, order)
    _not_another(out / KEY, key["study"])
    text = page(key, pairs)
    out.mkdir(parents=True, exist_ok=True)
    write(out / KEY, json.dumps(key, indent=1, ensure_ascii=False) + "\n")
    write(out / PAGE, text)
    return Written(out / PAGE, key, failures)


def _not_another(file: Path, study_id: str) -> None:
    """ValueError where the file is another study's key: votes that are out can be read with that one alone."""
    if not file.exists():
        return
    try:
        theirs = json.loads(file.read_text("utf-8"))["study"]
    except (ValueError, KeyError, TypeError):
        theirs = "that cannot be read"
    if theirs != study_id:
        raise ValueError(f"{file} is the key of study {theirs}, this is {study_id}; give another out=")


def entry() -> int:
    """What `rdt study` calls: the command line's exit status."""
    from rdt.study.__main__ import main

    return main()


def write(path: Path, text: str) -> None:
    """Write under another name first, so that nobody meets half a file."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, "utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
