"""study.html and its key. The page has a random id for every side; only the key says which setting each id shows."""

import base64
import hashlib
import io
import json
import random
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from rdt.files import write_json, write_text
from rdt.report.compare import Repeat, compare
from rdt.report.read import Failure, read_runs
from rdt.study.design import Options, Side, SidePair, designed, secret
from rdt.study.sources import SampleGrid, Setting, chosen, settings_of
from rdt.text import NAME, folded, printable, read_json

PAGE, KEY = "study.html", "key.json"
VERSION = 1  # of the page, its key and its votes
EXACT, LARGEST = 256, 768  # pixels across: up to EXACT an image stays PNG, above LARGEST it is shrunk to that
ONE = {
    "alignment": "Which fits the words better?",
    "looks": "Which looks better?",
    "overall": "Which would you rather have?",
}
SETS = {
    "alignment": "Which set fits the words better?",
    "looks": "Which set looks better?",
    "diversity": "Which set is more varied?",
    "overall": "Which set would you rather have?",
}


@dataclass(frozen=True)
class Study:
    """Describes a study that is written and can be sent."""

    page: Path
    key: dict[str, Any]
    failures: list[Failure]  # folders that could not be read
    repeats: list[Repeat]  # runs that count once with another


def write_study(run_dirs: list[Path], out: Path, options: Options, names: str = "") -> Study:
    """Write the page and its key into `out`, for the settings of all runs that match `names`.

    ValueError if a picture is missing, too few are recorded, or `out` holds the key of another study.
    """
    runs, failures = read_runs(run_dirs)
    if not runs:
        raise ValueError(
            f"there is no usable run in {', '.join(map(str, run_dirs[:3]))}: expected folders with a result.json"
        )
    comparisons = compare(runs)
    settings = chosen(settings_of(comparisons), names)
    pairs = designed(settings, options)
    key = key_of(settings, pairs, options)
    _check_key(out / KEY, key["study"])
    text = page(key, pairs)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / KEY, key)
    write_text(out / PAGE, text)
    return Study(out / PAGE, key, failures, [repeat for one in comparisons for repeat in one.repeats])


def print_study(study: Study) -> None:
    """Print where the study is, what it holds and who gets which file."""
    pairs, settings = study.key["pairs"], study.key["settings"]
    paired, images = sum(pair["same_noise"] for pair in pairs), study.key["set"]
    for failure in study.failures:
        print(f"failed   {printable(failure.path)}: {folded(failure.reason, NAME)}")
    for repeat in study.repeats:
        print(f"repeated {repeat.line}")
    names = ", ".join(folded(setting, NAME) for setting in settings)
    print(
        f"study    {study.key['study']}: {len(pairs)} pairs of {images} image{'s' * (images > 1)} a side, {paired} of"
        f" them from the same noise; {len(settings)} settings: {names}"
    )
    print(f"page     {printable(study.page)}, {study.page.stat().st_size / 1e6:.1f} MB: for the raters")
    print(f"key      {printable(study.page.with_name(KEY))}: for you alone; the tally reads it")


def key_of(settings: list[Setting], pairs: list[SidePair], options: Options) -> dict[str, Any]:
    """Return the key: what a tally needs to read votes, and a person to find the pictures again."""
    seed = secret(settings, options)
    return {
        "kind": "rdt study key",
        "version": VERSION,
        "study": _id(seed, "study"),
        "set": options.size,
        "seed": options.seed,
        "questions": list(SETS if options.size > 1 else ONE),
        "settings": [setting.name for setting in settings],
        "pairs": [_keyed(pair, f"{seed} {k}") for k, pair in enumerate(pairs)],
    }


def page(key: dict[str, Any], pairs: list[SidePair]) -> str:
    """Return the whole page; it needs no network and no server."""
    assets = files("rdt.study")
    title = "Which set of images?" if key["set"] > 1 else "Which image?"
    return Template((assets / "page.html").read_text("utf-8")).substitute(
        title=escape(title),
        style=(assets / "page.css").read_text("utf-8"),
        script=(assets / "page.js").read_text("utf-8"),
        study=_inline_json(_page_data(key, pairs)),
    )


def cell_uri(grid: SampleGrid, row: int, column: int) -> str:
    """Return one image of a grid as a data: URI, which does not tell where the image is from."""
    image, out = grid.image(row, column), io.BytesIO()
    image.thumbnail((LARGEST, LARGEST))
    kind, how = ("png", {"optimize": True}) if image.width <= EXACT else ("jpeg", {"quality": 95, "subsampling": 0})
    image.save(out, kind, **how)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def _page_data(key: dict[str, Any], pairs: list[SidePair]) -> dict[str, Any]:
    """Return the data of the page's script: pairs whose sides refer to images, each image once, in random order."""
    uris = {name: [_uris(getattr(pair, name)) for pair in pairs] for name in ("left", "right")}
    images = sorted({image for sides in uris.values() for side in sides for image in side})
    random.Random(key["study"]).shuffle(images)
    place = {image: k for k, image in enumerate(images)}
    shown = [
        {"id": ids["id"], "prompt": folded(ids["prompt"])}
        | {name: {"id": ids[name]["id"], "images": [place[image] for image in uris[name][k]]} for name in uris}
        for k, ids in enumerate(key["pairs"])
    ]
    questions = {name: (SETS if key["set"] > 1 else ONE)[name] for name in key["questions"]}
    return {"study": key["study"], "version": VERSION, "questions": questions, "pairs": shown, "images": images}


def _uris(side: Side) -> list[str]:
    return [cell_uri(side.grid, side.row, column) for column in side.columns]


def _keyed(pair: SidePair, seed: str) -> dict[str, Any]:
    return {
        "id": _id(seed, "pair"),
        "prompt": pair.prompt,
        "same_noise": pair.left.noise == pair.right.noise,
        "left": _source(pair.left, _id(seed, "left")),
        "right": _source(pair.right, _id(seed, "right")),
    }


def _source(side: Side, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "setting": side.setting,
        "seed": side.grid.run.result.seed,
        "picture": str(side.grid.path),
        "row": side.row,
        "columns": list(side.columns),
    }


def _id(*words: str) -> str:
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:10]


def _inline_json(value: Any) -> str:
    """Return JSON without `<`, so that no text in it ends the script element."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


def _check_key(file: Path, study_id: str) -> None:
    """Raise ValueError if the file is the key of another study, whose votes nothing else could read."""
    if not file.exists():
        return
    try:
        other = read_json(file)["study"]
    except (ValueError, KeyError, TypeError):
        other = "(unreadable)"
    if other != study_id:
        raise ValueError(f"{file} is the key of study {other}, this is study {study_id}; give another out=")
