"""Reads votes as raters send them and checks them against the key; several files of one rater count once."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rdt.study.page import VERSION
from rdt.text import NAME, printable, read_json

DAMAGED = (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError)  # what a wrong file causes
ANSWERS = ("left", "tie", "right")


@dataclass(frozen=True)
class Vote:
    """Holds one rater's answers about one pair."""

    pair: str
    at: datetime  # of the last answer
    answers: dict[str, str]  # question -> left, tie or right
    seconds: float


@dataclass(frozen=True)
class Ballot:
    """Holds the contents of one file of votes."""

    rater: str  # id of the browser
    name: str  # as typed, in lower case; may be empty
    votes: tuple[Vote, ...]


def read_key(path: Path) -> dict[str, Any]:
    """Read a key; ValueError if the file is not a key of this version or was damaged."""
    key = _json(path)
    if not _is(key, "rdt study key"):
        raise ValueError(
            f"{path} is not a key of a study, version {VERSION}: expected the key.json that `rdt study` wrote"
        )
    try:
        _text(key["study"])
        settings, questions = [[_text(name) for name in _list(key[part])] for part in ("settings", "questions")]
        for pair in _list(key["pairs"]):
            _text(pair["id"])
            for side in ("left", "right"):
                if _text(pair[side]["setting"]) not in settings or not _text(pair[side]["id"]):
                    raise ValueError(f"{side} of pair {pair['id']} shows none of the settings")
    except DAMAGED as error:
        raise ValueError(f"{path} is a damaged key: {type(error).__name__} {error}") from error
    return key | {"settings": settings, "questions": questions}


def read_votes(paths: Iterable[Path], key: dict[str, Any]) -> dict[str, dict[str, Vote]]:
    """Return the latest votes by rater and pair; ValueError names the first file that is not of this study."""
    ballots = [_ballot(path, key) for path in paths]
    votes: dict[str, dict[str, Vote]] = {}
    for ballot, rater in zip(ballots, _raters(ballots), strict=True):
        of_rater = votes.setdefault(rater, {})
        for vote in ballot.votes:
            if vote.pair not in of_rater or vote.at >= of_rater[vote.pair].at:
                of_rater[vote.pair] = vote
    return {rater: of_rater for rater, of_rater in votes.items() if of_rater}


def _raters(ballots: list[Ballot]) -> list[str]:
    """Return each ballot's rater; ballots that share a browser or a name, directly or through others, have the same."""
    groups: list[set[str]] = []
    for ballot in ballots:
        marks = {f"id {ballot.rater}"} | ({f"name {ballot.name}"} if ballot.name else set())
        touched = [group for group in groups if group & marks]
        groups = [group for group in groups if not group & marks] + [marks.union(*touched)]
    return [max(next(group for group in groups if f"id {ballot.rater}" in group)) for ballot in ballots]


def _ballot(path: Path, key: dict[str, Any]) -> Ballot:
    content = _json(path)
    if not _is(content, "rdt study votes"):
        raise ValueError(f"{path} does not hold votes of a study, version {VERSION}")
    study = content.get("study")
    if study != key["study"]:
        found = printable(study, NAME) if isinstance(study, str) else type(study).__name__
        raise ValueError(f"{path} holds votes of study {found}, the key is of study {key['study']}")
    pairs = {pair["id"]: pair for pair in key["pairs"]}
    try:
        votes = tuple(_vote(entry, pairs, key["questions"]) for entry in _list(content["votes"]))
        rater, name = _text(content["rater"]), content.get("name", "")
        if not rater.strip() or not isinstance(name, str):
            raise ValueError(f"rater={rater} name={name}; expected two texts, the first not empty")
        return Ballot(rater, " ".join(name.casefold().split()), votes)
    except DAMAGED as error:
        raise ValueError(f"{path}: a vote cannot be read: {type(error).__name__} {error}") from error


def _vote(entry: dict[str, Any], pairs: dict[str, Any], questions: list[str]) -> Vote:
    pair, answers = pairs[_text(entry["pair"])], entry["answers"]
    if [entry[side] for side in ("left", "right")] != [pair[side]["id"] for side in ("left", "right")]:
        raise ValueError(f"the sides of pair {entry['pair']} are not those of the key")
    for question, answer in answers.items():  # AttributeError unless it is an object
        if question not in questions or answer not in ANSWERS:
            raise ValueError(
                f"{question}={answer}; expected one of {', '.join(ANSWERS)} for one of {', '.join(questions)}"
            )
    return Vote(entry["pair"], _time(entry["at"]), answers, _seconds(entry["seconds"]))


def _time(at: Any) -> datetime:
    """Return a time of the past; ValueError if it is none, since a time to come would outdo every later vote."""
    time = datetime.fromisoformat(_text(at))
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    if not datetime(2000, 1, 1, tzinfo=UTC) < time < datetime.now(UTC) + timedelta(days=2):  # clocks differ
        raise ValueError(f"at={at} is not a time before now")
    return time


def _seconds(value: Any) -> float:
    """Return a duration; ValueError or OverflowError unless it is a finite number from 0 on."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= float(value) < math.inf:
        raise ValueError(f"seconds={value}; expected a number of 0 or more")
    return float(value)


def _is(content: dict[str, Any], kind: str) -> bool:
    """Return whether a file is of this kind and of this version; true is no version."""
    return content.get("kind") == kind and content.get("version") == VERSION and content["version"] is not True


def _text(value: Any) -> str:
    """Return the value; TypeError unless it is a text."""
    if not isinstance(value, str):
        raise TypeError(f"{printable(value, NAME)} is {type(value).__name__}, expected a text")
    return value


def _list(value: Any) -> list[Any]:
    """Return the value; TypeError unless it is a list."""
    if not isinstance(value, list):
        raise TypeError(f"{printable(value, NAME)} is {type(value).__name__}, expected a list")
    return value


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object; ValueError if the file holds anything else."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected an object")
    return content
