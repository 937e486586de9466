"""Prompt sets: lists in the package, files and columns of data sets, joined, split and checked for overlap.

Commands read prompt files before torch is loaded, so nothing here imports it; `rdt.stream` holds what needs torch.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rdt.weights import first_line, locate

LISTS = Path(__file__).parent / "prompt_lists"
CURE = "give a text file, one prompt per line"


def from_file(*, path: str, key: str | None = None) -> list[str]:
    """Return the prompts of a file or of dataset:<owner>/<name>[@revision]:<file>, each once, in order.

    The ending decides how it is read: .jsonl (one object per line), .json (a list) and .parquet give the column `key`,
    every other file one prompt per line. ValueError or FileNotFoundError, naming the file, if it has no prompts.
    """
    file = locate(path) if path.startswith("dataset:") else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path} does not exist; {CURE}")
    if key is not None and file.suffix not in READERS:
        raise ValueError(f"{path} has no columns, so no key={key}; only {', '.join(READERS)} files have columns")
    try:
        found = READERS.get(file.suffix, _lines)(file, key)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text; {CURE}") from None
    except ValueError as error:
        raise ValueError(f"{path}{error}") from None
    prompts = [prompt.strip() for prompt in found if prompt.strip()]
    if not prompts:
        raise ValueError(f"{path} is empty; {CURE}")
    return list(dict.fromkeys(prompts))


def packaged(*, name: str) -> list[str]:
    """Return a list of the package: simple_animals (DDPO's 45) or simple_animals_held_out (AlignProp's 6)."""
    return from_file(path=str(LISTS / f"{name}.txt"))


def joined(*, sets: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the prompts of all sets, each once."""
    return list(dict.fromkeys(prompt for prompts in sets.values() for prompt in prompts))


def without(*, prompts: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return the prompts that are not among the others."""
    known = set(others)
    return [prompt for prompt in prompts if prompt not in known]


def random_split(*, prompts: Sequence[str], name: str, share: float, seed: int) -> list[str]:
    """Return the `held_out` share of the prompts or the `train` rest, in the set's order; one seed, one split."""
    count = round(share * len(prompts))
    if not 0 < count < len(prompts):
        raise ValueError(f"share={share} holds out {count} of {len(prompts)} prompts; both parts need at least one")
    chosen = set(random.Random(seed).sample(range(len(prompts)), count))
    names = {"train": False, "held_out": True}
    if name not in names:
        raise ValueError(f"split={name!r} is not one of {', '.join(names)}")
    return [prompt for i, prompt in enumerate(prompts) if (i in chosen) is names[name]]


def check_disjoint(train: Sequence[str], held_out: Sequence[str]) -> None:
    """Raise ValueError if a held-out prompt is also trained on."""
    known = set(train)
    both = [prompt for prompt in held_out if prompt in known]
    if both:
        raise ValueError(f"{len(both)} of {len(held_out)} held-out prompts are trained on too, first {both[0]!r}")


def notices(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return a line for each set that has prompts longer than the model reads."""
    return [
        f"prompts  {count['overlong']} of {count['prompts']} in {name} are longer than the model reads: "
        "their ends have no effect"
        for name, count in counts.items()
        if count["overlong"]
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
        raise ValueError(f" is not a readable Parquet file: {first_line(error)}") from None


READERS: dict[str, Callable[[Path, str | None], list[str]]] = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}


def _parsed(text: str, place: str) -> Any:
    """Return the parsed JSON; ValueError, naming the place in the file, if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place} is not JSON: {error}") from None


def _prompt(entry: Any, key: str | None, place: str) -> str:
    """Return the text of an entry, read at `key` if the entry is an object."""
    if isinstance(entry, dict) and key is None:
        raise ValueError(f"{place} is an object; give the key of its prompt: one of {', '.join(entry)}")
    if isinstance(entry, dict) and key not in entry:
        raise ValueError(f"{place} has no key={key}; it has {', '.join(entry)}")
    text = entry[key] if isinstance(entry, dict) else entry
    if not isinstance(text, str):
        raise ValueError(f"{place} is {type(text).__name__}, expected a string")
    return text
