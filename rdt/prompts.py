"""Prompt sets: lists in the package, files and columns of data sets, joined, split and checked for overlap.

Commands read prompt files before torch is loaded, so nothing here imports it; `rdt.stream` holds what needs torch.
"""

import csv
import hashlib
import io
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rdt import files
from rdt.text import folded, lines_of, lone_surrogate, parse_json, read_json, read_text
from rdt.weights import first_line, locate

LISTS = Path(__file__).parent / "prompt_lists"
CURE = "give a text file, one prompt per line"
ROWS = "prompts.json"  # beside pictures of samples: the prompts of their rows


def from_file(*, path: str, key: str | None = None) -> list[str]:
    """Return the prompts of a file or of dataset:<owner>/<name>[@revision]:<file>, each once, in order.

    The ending decides how it is read: .jsonl (one object per line), .json (a list), .csv and .tsv (with a header) and
    .parquet give the column `key`, every other file one prompt per line. ValueError or FileNotFoundError, naming the
    file, if it has no prompts.
    """
    file = locate(path) if path.startswith("dataset:") else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path} {'is a folder' if file.is_dir() else 'does not exist'}; {CURE}")
    suffix, key = file.suffix.lower(), None if key is None else str(key)
    if key is not None and suffix not in READERS:
        raise ValueError(
            f"{path} has no columns, so no key={key}; only {', '.join(READERS)} files have columns"
            " (prompts.train_key and prompts.held_out_key give each of two files its own key, null for none)"
        )
    try:
        prompts = [_whole(place, text.strip()) for place, text in READERS.get(suffix, _lines)(file, key)]
    except ValueError as error:
        reason = str(error).removeprefix(f"{file} ")
        raise ValueError(f"{path} {reason}{f'; {CURE}' * (reason != str(error))}") from None  # if it is no text at all
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise ValueError(f"{path} is empty; {CURE}")
    return list(dict.fromkeys(prompts))


def benchmark(*, path: str, key: str | None, count: int | None, sha256: str | None) -> list[str]:
    """Return the prompts of a benchmark's published file; ValueError if it is not the file that count and digest tell.

    Its prompts are counted each once.
    """
    prompts = from_file(path=path, key=key)
    if count is not None and len(prompts) != count:
        raise ValueError(f"{path} has {len(prompts)} different prompts, expected prompts.count={count}")
    if sha256 is not None:
        file = locate(path) if path.startswith("dataset:") else Path(path)
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != sha256.lower():
            raise ValueError(f"{path} has sha256={found}, expected prompts.sha256={sha256}: it is another file")
    return prompts


def write_rows(folder: Path, prompts: Sequence[str]) -> None:
    """Write the prompts of the rows of pictures beside them, as JSON, since a prompt may have several lines."""
    files.write_json(folder / ROWS, list(prompts))


def read_rows(folder: Path) -> tuple[str, ...]:
    """Return the prompts of the rows of pictures; ValueError or OSError, naming the file, if they cannot be read."""
    rows = read_json(folder / ROWS)
    if not isinstance(rows, list) or not all(isinstance(row, str) for row in rows):
        raise ValueError(f"{folder / ROWS} is not a list of texts")
    return tuple(rows)


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


Texts = Iterator[tuple[str, str]]  # where in the file, and the text there


def _lines(file: Path, key: str | None) -> Texts:
    for number, line in enumerate(lines_of(read_text(file)), start=1):
        yield f"line {number}", line


def _jsonl(file: Path, key: str | None) -> Texts:
    for number, line in enumerate(lines_of(read_text(file)), start=1):
        if line.strip():
            yield f"line {number}", _prompt(_parsed(line, f"line {number}"), key, f"line {number}")


def _json(file: Path, key: str | None) -> Texts:
    entries = parse_json(read_text(file))
    if not isinstance(entries, list):
        raise ValueError(f"holds {type(entries).__name__}, expected a list")
    for number, entry in enumerate(entries, start=1):
        yield f"entry {number}", _prompt(entry, key, f"entry {number}")


def _csv(file: Path, key: str | None) -> Texts:
    yield from _column(_rows(read_text(file), delimiter=","), key)


def _tsv(file: Path, key: str | None) -> Texts:
    """Yield a column; quotation marks that do not enclose whole fields are part of the text, as in "Hi" she said."""
    text = read_text(file)
    try:
        rows = _rows(text, delimiter="\t")
    except ValueError:
        rows = _rows(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    yield from _column(rows, key)


def _rows(text: str, **dialect: Any) -> list[tuple[int, list[str]]]:
    """Return a table's rows that are not blank, each with the number of its last line; ValueError if it is broken."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, **dialect)
    try:
        return [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is not a row of a table: {error}") from None


def _column(rows: list[tuple[int, list[str]]], key: str | None) -> Texts:
    """Yield the fields below the head `key`."""
    names = [name.strip() for name in rows[0][1]] if rows else []
    if names and (key is None or names.count(key) != 1):
        count = f"{len(names)} column{'s' * (len(names) > 1)}, {', '.join(folded(name, 40) for name in names[:20])}"
        wanted = "give the key of its prompts" if key is None else f"expected one that is named key={key}"
        raise ValueError(f"has {count}: {wanted}, or name the file .txt if it has one prompt per line and no header")
    for number, row in rows[1:]:
        if not names.index(str(key)) < len(row) <= len(names):
            raise ValueError(f"line {number} has {len(row)} fields and the header has {len(names)}; quote every comma")
        yield f"line {number}", row[names.index(str(key))]


def _parquet(file: Path, key: str | None) -> Texts:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ValueError("is Parquet, which needs a package: pip install -c constraints.txt -e '.[parquet]'") from None
    try:
        columns = parquet.read_schema(file).names
        if key not in columns:
            raise ValueError(f"has no column key={key}; it has {', '.join(columns)}")
        values = parquet.read_table(file, columns=[key])[key].to_pylist()
    except UnicodeDecodeError:
        raise ValueError(f"has text in column {key} that is not UTF-8") from None
    except (ArrowException, OSError) as error:
        raise ValueError(f"is not a readable Parquet file: {first_line(error)}") from None
    for number, value in enumerate(values, start=1):
        if value is not None:
            yield f"row {number}", _prompt(value, None, f"row {number}")


READERS: dict[str, Callable[[Path, str | None], Texts]] = {
    ".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet,
}  # fmt: skip


def _whole(place: str, text: str) -> str:
    """Return a prompt that tokenizers can read; ValueError, naming its place, if it is not Unicode or has a NUL."""
    if found := lone_surrogate(text):
        raise ValueError(f"{place} has {found}: half of a character, which is not Unicode")
    if "\0" in text:
        raise ValueError(f"{place} has a NUL character")
    return text


def _parsed(text: str, place: str) -> Any:
    """Return the parsed JSON; ValueError, naming the place in the file, if it is not JSON."""
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{place} {error}") from None


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
