"""Sample grids of run folders: one prompt per row and one noise per column, equal for base and tuned model."""

import base64
import io
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from rdt.prompts import read_rows
from rdt.report.compare import Comparison, Group
from rdt.report.read import Run
from rdt.result import sample_names
from rdt.text import folded

WIDE, MANY, NARROW = 1440, 24, 480  # most pixels across a picture of a page; NARROW if it has more than MANY pictures
PAGE_BYTES = 16_000_000  # of all grids of a page together; a grid past its share becomes JPEG


@dataclass(frozen=True)
class Grid:
    """Holds a picture of samples and its title."""

    path: Path
    title: str
    group: Group | None  # None: the base model
    prompts: tuple[str, ...]  # one per row, each on one line; empty if they were not recorded


def grids_of(comparison: Comparison, most: int) -> list[Grid]:
    """Return at most that many readable grids: the base's, then those of the groups, every method in turn."""
    by_method = [[g for g in comparison.groups if g.method == method] for method in comparison.methods]
    by_method = [sorted(groups, key=lambda group: _name(group) != "tuned") for groups in by_method]
    turns = chain(*zip_longest(*sorted(by_method, key=len, reverse=True)))
    groups = [group for group in turns if group is not None]
    base = next((grid for group in groups if (grid := _grid(group.runs[0], "base", None))), None)
    grids = [base, *(_grid(group.runs[0], _name(group), group) for group in groups)]
    return [grid for grid in grids if grid is not None][:most]


def embedded(grid: Grid, count: int) -> tuple[str, bool]:
    """Return the data URI of one of `count` grids of a page, and whether it shows the pixels of small images."""
    uri = data_uri(grid.path, WIDE if count <= MANY else NARROW, PAGE_BYTES // count)
    return uri, uri.startswith("data:image/png")


def data_uri(path: Path, most: int, light: int) -> str:
    """Return a picture as a data URI: the PNG if it has at most `most` pixels across and `light` bytes, else a JPEG."""
    from PIL import Image

    with Image.open(path) as image:
        picture, out = image.convert("RGB"), io.BytesIO()
    kind = "png"
    if picture.width <= most:
        picture.save(out, kind)
    if not 0 < out.tell() <= light:
        kind, out = "jpeg", io.BytesIO()
        picture.thumbnail((most, most * picture.height // picture.width + 1))
        picture.save(out, kind, quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def _name(group: Group) -> str:
    """Return the file name, without ending, of the picture of a group's first run."""
    points = group.runs[0].result.points
    return next(name for point, name in zip(points, sample_names(points), strict=True) if point is group.points[0])


def _grid(run: Run, name: str, group: Group | None) -> Grid | None:
    path = run.path / "samples" / f"{name}.png"
    if not _readable(path):
        return None
    try:
        rows = tuple(folded(prompt) for prompt in read_rows(path.parent))
    except (OSError, ValueError):
        rows = ()
    return Grid(path, folded(group.name) if group else "base", group, rows)


def _readable(path: Path) -> bool:
    """Return whether the file is a complete picture: that of a run that is still writing is left out."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except OSError:
        return False
    return True
