"""The record per image that an evaluation keeps of a few prompts: its prompt, its noise, and every score.

A point's images lie in `samples/<name>/`, one file each, beside `images.json`:

    {"images": [{"prompt": "a circle", "row": 0, "column": 1, "seed": 0, "index": 1, "file": "000-01.png",
                 "scores": {"hps": 0.21, "gold": null}}, ...]}

Row and column count prompts and the images of a prompt. The noise is sample `index` of stream "evaluation" of the seed,
the same for the base and for every point, so images of one row and column are pairs. A score is null if there is none.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdt import files
from rdt.text import read_json

if TYPE_CHECKING:
    from torch import Tensor

FILE = "images.json"
LOSSLESS, QUALITY = 64, 90  # most pixels across a PNG; larger images are WebP of this quality
NAME = re.compile(r"\d{3,6}-\d{2,6}\.(png|webp)")  # of an image; nothing else is read


@dataclass(frozen=True)
class ImageRecord:
    """Holds what is known of one image."""

    prompt: str
    row: int  # of its prompt among those of the record
    column: int  # among the images of its prompt
    seed: int
    index: int  # of its noise
    file: str  # beside images.json
    scores: dict[str, float | None]  # by reward


@dataclass(frozen=True)
class Recorded:
    """Describes what is common to the records of an evaluation."""

    prompts: Sequence[str]
    images_per_prompt: int  # of the whole evaluation, which number the noise
    seed: int


def write_images(
    folder: Path, common: Recorded, pixels: Mapping[int, "Tensor"], scores: Mapping[int, Mapping[str, "Tensor"]]
) -> None:
    """Write the images (k, 3, H, W) in uint8 of each row and their scores (k,) into a folder, which is replaced."""
    with files.replacing(folder) as unfinished:
        unfinished.mkdir(parents=True)
        kept = [
            _written(unfinished, common, row, column, pixels[row][column], scores[row])
            for row in sorted(pixels)
            for column in range(len(pixels[row]))
        ]
        files.write_json(unfinished / FILE, {"images": [asdict(one) for one in kept]})


def read_images(folder: Path) -> list[ImageRecord]:
    """Return the records of a folder, [] if it has none; ValueError or OSError if they are damaged."""
    file = folder / FILE
    if not file.is_file():
        return []
    found = read_json(file)
    rows = found.get("images") if isinstance(found, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f"{file} has no list of images")
    return [_record(file, row) for row in rows]


def _written(
    folder: Path, common: Recorded, row: int, column: int, pixels: "Tensor", scores: Mapping[str, "Tensor"]
) -> ImageRecord:
    """Write one image (3, H, W) and return its record."""
    from PIL import Image

    small = pixels.shape[-1] <= LOSSLESS
    name = f"{row:03d}-{column:02d}.{'png' if small else 'webp'}"
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    image.save(folder / name, **({"optimize": True} if small else {"quality": QUALITY}))
    found = {reward: _number(values[column].item()) for reward, values in scores.items()}
    index = row * common.images_per_prompt + column
    return ImageRecord(common.prompts[row], row, column, common.seed, index, name, found)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _record(file: Path, row: Any) -> ImageRecord:
    """Return one record; ValueError, naming the file, unless every field has its type and the file its form."""
    try:
        one = ImageRecord(**row)
    except TypeError:
        raise ValueError(f"{file} has an entry without the fields of an image") from None
    whole = all(isinstance(number, int) and number >= 0 for number in (one.row, one.column, one.seed, one.index))
    if not whole or not isinstance(one.prompt, str):
        raise ValueError(f"{file} has an image whose prompt, row, column, seed or index has another type")
    if not isinstance(one.file, str) or not NAME.fullmatch(one.file):
        raise ValueError(f"{file} names the image {str(one.file)[:40]!r}; want one such as 000-01.png")
    if not isinstance(one.scores, dict) or not all(map(_is_score, one.scores.values())):
        raise ValueError(f"{file} has scores of {one.file} that are no finite numbers")
    return one


def _is_score(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (number and math.isfinite(value))
