"""Votes as raters send them, checked against the key; nobody's are counted twice."""

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
class Sheet:
    """One file of votes."""

    rater: str  # of the browser
    name: str  # as typed; may be empty
    votes: tuple[Vote, ...]


def read_key(path: Path) -> dict[str, Any]:
    """ValueError where it is no key of this version."""
    key = _json(path)
    if key.get("kind") != "rdt study key" or key.get("version") != VERSION:
        raise ValueError(f"{path} is no key of a study, version {VERSION}: want the key.json that `rdt study` wrote")
    return key


def read_votes(paths: Iterable[Path], key: dict[str, Any]) -> dict[str, dict[str, Vote]]:
    """By rater and pair, the latest vote; ValueError at the first file that is not of this study."""
    sheets = [_sheet(path, key) for path in paths]
    votes: dict[str, dict[str, Vote]] = {}
    for sheet, rater in zip(sheets, _raters(sheets), strict=True):
        own = votes.setdefault(rater, {})
        for vote in sheet.votes:
            if vote.pair not in own or vote.at >= own[vote.pair].at:
                own[vote.pair] = vote
    return {rater: own for rater, own in votes.items() if own}


def _raters(sheets: list[Sheet]) -> list[str]:
    """Per sheet whose it is: what shares a browser's id or a name, directly or through another, is one rater's."""
    groups: list[set[str]] = []
    for sheet in sheets:
        marks = {f"id {sheet.rater}"} | ({f"name {sheet.name}"} if sheet.name else set())
        meant = [group for group in groups if group & marks]
        groups = [group for group in groups if not group & marks] + [marks.union(*meant)]
    return [max(next(group for group in groups if f"id {sheet.rater}" in group)) for sheet in sheets]


def _sheet(path: Path, key: dict[str, Any]) -> Sheet:
    content = _json(path)
    if content.get("kind") != "rdt study votes" or content.get("version") != VERSION:
        raise ValueError(f"{path} holds no votes of a study, version {VERSION}")
    if content.get("study") != key["study"]:
        raise ValueError(f"{path} holds votes of study {content.get('study')}, the key is of study {key['study']}")
    pairs = {pair["id"]: pair for pair in key["pairs"]}
    try:
        votes = tuple(_vote(entry, pairs, key["questions"]) for entry in content["votes"])
        return Sheet(str(content["rater"]), " ".join(str(content.get("name") or "").casefold().split()), votes)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: a vote cannot be read: {type(error).__name__} {error}") from error


def _vote(entry: dict[str, Any], pairs: dict[str, Any], questions: list[str]) -> Vote:
    pair, answers = pairs[entry["pair"]], dict(entry["answers"])
    if [entry[side] for side in ("left", "right")] != [pair[side]["id"] for side in ("left", "right")]:
        raise ValueError(f"the sides of pair {entry['pair']} are not those of the key")
    for question, answer in answers.items():
        if question not in questions or answer not in ANSWERS:
            raise ValueError(f"{question}={answer}; want {', '.join(questions)} of {', '.join(ANSWERS)}")
    return Vote(entry["pair"], str(entry["at"]), answers, float(entry["seconds"]))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; want an object")
    return content
