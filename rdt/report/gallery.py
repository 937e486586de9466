"""The images behind every point: a gallery of prompts against settings, in which a row holds images of one noise.

The page embeds the images of `rdt.image_record` if those of all its points take at most EMBEDDED bytes. Otherwise they
lie beside it: in the run folders if these are below the page's folder, else as copies in `report_images/`.
"""

import base64
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rdt import files
from rdt.image_record import ImageRecord, read_images
from rdt.report.compare import Comparison, Group
from rdt.report.grids import sample_name
from rdt.result import digest
from rdt.text import folded

EMBEDDED = 6_000_000  # bytes of images in one page
LARGEST = 8_000_000  # bytes of an image file; larger ones are left out
MOST = 200  # settings of a comparison whose images are shown
COPIES = "report_images"
TYPES = {"png": (b"\x89PNG\r\n\x1a\n", 0), "webp": (b"WEBP", 8)}  # what a file of this ending has, and where
Address = Callable[[Path], str]  # of an image in the page


@dataclass(frozen=True)
class Pictured:
    """Holds the recorded images of one model: the base's, or those of the first seed of a group."""

    name: str  # of the group; empty for the base
    folder: Path
    images: tuple[ImageRecord, ...]


def pictured(comparison: Comparison) -> list[Pictured]:
    """Return the recorded images of the base and of the groups that were sampled on the same noise."""
    groups = [(group, found) for group in comparison.groups[:MOST] if (found := _recorded(group, group.name))]
    base = next((found for group in comparison.groups if (found := _recorded(group, ""))), None)
    if base is None:
        return []
    known = {_noise(image) for image in base.images}
    kept = [Pictured(one.name, one.folder, _paired(one.images, known)) for _, one in groups]
    return [base, *(one for one in kept if one.images)]


def addresses(shown: Iterable[Pictured], out: Path) -> Address:
    """Return how the page in folder `out` names the images: their content, or files beside it if they are many."""
    paths = [one.folder / image.file for one in shown for image in one.images]
    if sum(path.stat().st_size for path in paths) <= EMBEDDED:
        return content
    return lambda path: beside(path, out)


def content(path: Path) -> str:
    """Return an image as a data URI."""
    return f"data:image/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def beside(path: Path, out: Path) -> str:
    """Return the address of an image relative to a folder, to which it is copied unless it lies below it."""
    here, there = path.resolve(), out.resolve()
    if here.is_relative_to(there):
        return quote(here.relative_to(there).as_posix())
    copy = Path(COPIES) / digest(str(here.parent)) / path.name
    (there / copy).parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(there / copy) as unfinished:
        shutil.copyfile(here, unfinished)
    return copy.as_posix()


def is_image(path: Path) -> bool:
    """Return whether a file begins as its ending says, and is not too large."""
    mark, start = TYPES[path.suffix[1:]]
    try:
        with path.open("rb") as stream:
            return stream.read(16)[start : start + len(mark)] == mark and path.stat().st_size <= LARGEST
    except OSError:
        return False


def gallery_html(name: str, shown: Sequence[Pictured], address: Address) -> str:
    """Return the controls and the data of the gallery of comparison `name`; empty if it has no images."""
    if len(shown) < 2:
        return ""
    data = json.dumps(gallery_record(shown, address)).replace("<", "\\u003c")
    choose = '<details class="which"><summary>Settings</summary></details>'
    return (
        f'<div class="gallery" data-gallery="{escape(name)}"><div class="tools">'
        '<label>order <select data-of="order"></select></label><label>of <select data-of="score"></select></label>'
        '<label>at <select data-of="setting"></select></label><label>image <select data-of="column"></select></label>'
        f'<label>prompts <select data-of="count"></select></label>{choose}'
        '<button type="button" class="export">PNG</button></div>'
        '<div class="scroll" role="region" aria-label="gallery" tabindex="0"></div>'
        f'<p class="quiet" role="status"></p><script type="application/json">{data}</script></div>'
    )


def gallery_record(shown: Sequence[Pictured], address: Address) -> dict[str, Any]:
    """Return the data of a gallery: prompts, the number of images of each, and the images of the base and the groups.

    An image is [address, scores in the order of `names`], or null if a group has none there.
    """
    base = shown[0]
    prompts = {image.row: folded(image.prompt) for image in base.images}
    rows, columns = sorted(prompts), sorted({image.column for image in base.images})
    names = sorted({score for one in shown for image in one.images for score in image.scores})
    return {
        "prompts": [prompts[row] for row in rows],
        "columns": len(columns),
        "names": names,
        "points": {one.name: _cells(one, rows, columns, names, address) for one in shown},
    }


def _cells(one: Pictured, rows: list[int], columns: list[int], names: list[str], address: Address) -> list[list[Any]]:
    """Return the images of a model by row and column."""
    found = {(image.row, image.column): image for image in one.images}

    def cell(row: int, column: int) -> list[Any] | None:
        image = found.get((row, column))
        if image is None:
            return None
        return [address(one.folder / image.file), [_brief(image.scores.get(name)) for name in names]]

    return [[cell(row, column) for column in columns] for row in rows]


def _recorded(group: Group, name: str) -> Pictured | None:
    """Return the images of a group's first run, or those of its base if `name` is empty; None if it has none."""
    folder = group.runs[0].path / "samples" / (sample_name(group) if name else "base")
    try:
        images = tuple(image for image in read_images(folder) if is_image(folder / image.file))
    except (OSError, ValueError):  # of a run that is still writing, or a damaged one
        return None
    return Pictured(name, folder, images) if images else None


def _noise(image: ImageRecord) -> tuple[str, int, int, int, int]:
    return image.prompt, image.seed, image.index, image.row, image.column


def _paired(images: Iterable[ImageRecord], known: set[tuple[str, int, int, int, int]]) -> tuple[ImageRecord, ...]:
    return tuple(image for image in images if _noise(image) in known)


def _brief(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
