"""Prompt sets: lists in the package, files, columns of the hub's data sets; made of one another, split, kept apart."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rdt.weights import locate

LISTS = Path(__file__).parent / "prompt_lists"
RIGHT = "give a text file, one prompt per line"


def from_file(*, path: str, key: str | None = None) -> list[str]:
    """Each prompt of a file or of dataset:<owner>/<name>[@revision]:<file> once, in order; errors name the file.

    By its ending: .jsonl (one object a line), .json (a list), .parquet, each read at `key`; else one prompt per line.
    """
    file = locate(path) if path.startswith("dataset:") else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path} does not exist; {RIGHT}")
    if key is not None and file.suffix not in READERS:
        raise ValueError(f"{path} has no columns to find key={key} in; it ends in none of {', '.join(READERS)}")
    try:
        found = READERS.get(file.suffix, _lines)(file, key)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text; {RIGHT}") from None
    except ValueError as error:
        raise ValueError(f"{path}{error}") from None
    prompts = [prompt.strip() for prompt in found if prompt.strip()]
    if not prompts:
        raise ValueError(f"{path} is empty; {RIGHT}")
    return list(dict.fromkeys(prompts))


def packaged(*, name: str) -> list[str]:
    """A list of the package: simple_animals (DDPO's 45), simple_animals_held_out (AlignProp's 6)."""
    return from_file(path=str(LISTS / f"{name}.txt"))


def joined(*, sets: Mapping[str, Sequence[str]]) -> list[str]:
    """The prompts of all sets, each once."""
    return list(dict.fromkeys(prompt for one in sets.values() for prompt in one))


def without(*, prompts: Sequence[str], others: Sequence[str]) -> list[str]:
    """The prompts that are not among the others."""
    known = set(others)
    return [prompt for prompt in prompts if prompt not in known]


def split(*, prompts: Sequence[str], name: str, share: float, seed: int) -> list[str]:
    """The `held_out` share of the prompts, or the `train` rest, in the set's order; the same for a seed, for ever."""
    count = round(share * len(prompts))
    if not 0 < count < len(prompts):
        raise ValueError(f"share={share} holds out {count} of {len(prompts)} prompts; want some of both")
    chosen = set(random.Random(seed).sample(range(len(prompts)), count))
    names = {"train": False, "held_out": True}
    if name not in names:
        raise ValueError(f"split={name!r} is not one of {', '.join(names)}")
    return [prompt for i, prompt in enumerate(prompts) if (i in chosen) is names[name]]


def apart(train: Sequence[str], held_out: Sequence[str]) -> None:
    """ValueError where a prompt is trained on and held out."""
    known = set(train)
    both = [prompt for prompt in held_out if prompt in known]
    if both:
        raise ValueError(f"{len(both)} of {len(held_out)} held-out prompts are trained on too, first {both[0]!r}")


def notices(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A line for each set with prompts that are longer than the model reads."""
    cut = {name: of for name, of in counts.items() if of["overlong"]}
    return [
        f"prompts  {of['overlong']} of {of['prompts']} in {name} are longer than the model reads: their ends do nothing"
        for name, of in cut.items()
    ]


def _lines(file: Path, key: str | None) -> list[str]:
    return file.read_text(encoding="utf-8").split("\n")


def _jsonl(file: Path, key: str | None) -> list[str]:
    prompts = []
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            prompts.append(_prompt(_parsed(line, f" line {number}"), key, f" line {number}"))
    return prompts


def _json(file: Path, key: str | None) -> list[str]:
    entries = _parsed(file.read_text(encoding="utf-8"), "")
    if not isinstance(entries, list):
        raise ValueError(f" holds {type(entries).__name__}, expected a list")
    return [_prompt(entry, key, f" entry {number}") for number, entry in enumerate(entries, start=1)]


def _parquet(file: Path, key: str | None) -> list[str]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ValueError(" is Parquet, which needs a package: pip install -c constraints.txt -e '.[parquet]'") from None
    try:
        columns = parquet.read_schema(file).names
        if key not in columns:
            raise ValueError(f" has no column key={key}; it has {', '.join(columns)}")
        return [str(value) for value in parquet.read_table(file, columns=[key])[key].to_pylist() if value is not None]
    except (ArrowException, OSError) as error:
        raise ValueError(f" is no readable Parquet file: {str(error).partition(chr(10))[0]}") from None


READERS: dict[str, Callable[[Path, str | None], list[str]]] = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON: {error}") from None


def _prompt(entry: Any, key: str | None, where: str) -> str:
    """The text of an entry, at `key` where it is an object."""
    if isinstance(entry, dict) and key is None:
        raise ValueError(f"{where} is an object; say at which key its prompt is: one of {', '.join(entry)}")
    if isinstance(entry, dict) and key not in entry:
        raise ValueError(f"{where} has no key={key}; it has {', '.join(entry)}")
    text = entry[key] if isinstance(entry, dict) else entry
    if not isinstance(text, str):
        raise ValueError(f"{where} is {type(text).__name__}, expected a text")
    return text
