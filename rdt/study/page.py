"""study.html and its key. The page gives every side an id of its own; which belong together is in the key."""

import hashlib
import json
import random
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from rdt.study.design import Order, Pair, Side, secret
from rdt.study.pictures import address
from rdt.study.sources import Setting

VERSION = 1  # of the page, its key and its votes
ONE = {"quality": "Which fits the words better and looks better?", "overall": "Which would you rather have?"}
SETS = {
    "quality": "Which set fits the words better and looks better?",
    "diversity": "Which set is more varied?",
    "overall": "Which set would you rather have?",
}


def key_of(settings: list[Setting], pairs: list[Pair], order: Order) -> dict[str, Any]:
    """What a tally needs to read votes, and a person to find the pictures again."""
    chance = secret(settings, order)
    return {
        "kind": "rdt study key",
        "version": VERSION,
        "study": _id(chance, "study"),
        "set": order.size,
        "seed": order.seed,
        "questions": list(SETS if order.size > 1 else ONE),
        "settings": [setting.name for setting in settings],
        "pairs": [_keyed(pair, f"{chance} {k}") for k, pair in enumerate(pairs)],
    }


def page(key: dict[str, Any], pairs: list[Pair]) -> str:
    """The whole page; it needs no network and no server."""
    assets = files("rdt.study")
    title = "Which set of images?" if key["set"] > 1 else "Which image?"
    return Template((assets / "page.html").read_text("utf-8")).substitute(
        title=escape(title), style=(assets / "page.css").read_text("utf-8"),
        script=(assets / "page.js").read_text("utf-8"), study=_inside(_shown(key, pairs)),
    )  # fmt: skip


def _shown(key: dict[str, Any], pairs: list[Pair]) -> dict[str, Any]:
    """What the page is told; every image once, in an order that says nothing."""
    drawn = [(_addresses(pair.left), _addresses(pair.right)) for pair in pairs]
    images = sorted({image for sides in drawn for side in sides for image in side})
    random.Random(key["study"]).shuffle(images)
    place = {image: k for k, image in enumerate(images)}
    shown = [
        {"id": ids["id"], "prompt": ids["prompt"]}
        | {name: {"id": ids[name]["id"], "images": [place[image] for image in side]}
           for name, side in zip(("left", "right"), sides, strict=True)}
        for ids, sides in zip(key["pairs"], drawn, strict=True)
    ]  # fmt: skip
    asked = {name: (SETS if key["set"] > 1 else ONE)[name] for name in key["questions"]}
    return {"study": key["study"], "version": VERSION, "questions": asked, "pairs": shown, "images": images}


def _addresses(side: Side) -> list[str]:
    return [address(side.grid, side.row, column) for column in side.columns]


def _keyed(pair: Pair, chance: str) -> dict[str, Any]:
    return {
        "id": _id(chance, "pair"),
        "prompt": pair.prompt,
        "same_noise": pair.left.noise == pair.right.noise,
        "left": _source(pair.left, _id(chance, "left")),
        "right": _source(pair.right, _id(chance, "right")),
    }


def _source(side: Side, name: str) -> dict[str, Any]:
    where = {"row": side.row, "columns": list(side.columns)}
    seed, picture = side.grid.run.result.seed, str(side.grid.path)
    return {"id": name, "setting": side.setting, "seed": seed, "picture": picture} | where


def _id(*words: str) -> str:
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:10]


def _inside(value: Any) -> str:
    """JSON that no script element ends at."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")
