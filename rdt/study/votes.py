"""Votes as raters send them, checked against the key; a rater counts once however many files there are."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdt.study.page import VERSION

ANSWERS = ("left", "tie", "right")


@dataclass(frozen=True)
class Vote:
    """One rater's answers about one pair."""

    pair: str
    at: str  # ISO time of the last answer
    answers: dict[str, str]  # question -> left, tie or right
    seconds: float


@dataclass(frozen=True)
class Ballot:
    """The contents of one file of votes."""

    rater: str  # id of the browser
    name: str  # as typed, in lower case; may be empty
    votes: tuple[Vote, ...]


def read_key(path: Path) -> dict[str, Any]:
    """Read a key; ValueError if the file is not a key of this version."""
    key = _json(path)
    if key.get("kind") != "rdt study key" or key.get("version") != VERSION:
        raise ValueError(
            f"{path} is not a key of a study, version {VERSION}: expected the key.json that `rdt study` wrote"
        )
    return key


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
    if content.get("kind") != "rdt study votes" or content.get("version") != VERSION:
        raise ValueError(f"{path} does not hold votes of a study, version {VERSION}")
    if content.get("study") != key["study"]:
        raise ValueError(f"{path} holds votes of study {content.get('study')}, the key is of study {key['study']}")
    pairs = {pair["id"]: pair for pair in key["pairs"]}
    try:
        votes = tuple(_vote(entry, pairs, key["questions"]) for entry in content["votes"])
        return Ballot(str(content["rater"]), " ".join(str(content.get("name") or "").casefold().split()), votes)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: a vote cannot be read: {type(error).__name__} {error}") from error


def _vote(entry: dict[str, Any], pairs: dict[str, Any], questions: list[str]) -> Vote:
    pair, answers = pairs[entry["pair"]], dict(entry["answers"])
    if [entry[side] for side in ("left", "right")] != [pair[side]["id"] for side in ("left", "right")]:
        raise ValueError(f"the sides of pair {entry['pair']} are not those of the key")
    for question, answer in answers.items():
        if question not in questions or answer not in ANSWERS:
            raise ValueError(
                f"{question}={answer}; expected one of {', '.join(ANSWERS)} for one of {', '.join(questions)}"
            )
    return Vote(entry["pair"], str(entry["at"]), answers, float(entry["seconds"]))


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object; ValueError if the file holds anything else."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected an object")
    return content
