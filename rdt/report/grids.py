"""Sample grids of run folders: the same prompts (rows) and noise (columns) for base and tuned model."""

import base64
import io
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from rdt.report.fronts import Comparison, Group
from rdt.report.records import Run
from rdt.result import slug

MOST, MANY, SMALL = 900, 24, 480  # pixels across, for a picture inside a page; of more pictures than MANY
BUDGET = 16_000_000  # bytes of all grids of a page, past which they are JPEG


@dataclass(frozen=True)
class Grid:
    """One grid image and what stands over it."""

    path: Path
    title: str
    group: Group | None  # None: the base model
    prompts: tuple[str, ...]  # of its rows; empty where not recorded


def grids_of(comparison: Comparison, most: int) -> list[Grid]:
    """The base's grid and those of the groups, every method in turn, at most that many; unreadable ones left out."""
    by_method = [[g for g in comparison.groups if g.method == method] for method in comparison.methods]
    by_method = sorted(
        (sorted(groups, key=lambda g: _name(g) != "tuned") for groups in by_method), key=len, reverse=True
    )
    turns = [group for group in chain(*zip_longest(*by_method)) if group is not None]
    base = next((grid for g in turns if (grid := _grid(g.runs[0], "base", None))), None)
    grids = [base, *(_grid(group.runs[0], _name(group), group) for group in turns)]
    return [grid for grid in grids if grid is not None][:most]


def _name(group: Group) -> str:
    """The picture of a group's first run: "tuned" under its own guidance, else called for the point's label."""
    return "tuned" if group.points[0] is group.runs[0].points[0] else slug(group.points[0].label)


def _grid(run: Run, name: str, group: Group | None) -> Grid | None:
    path, prompts = run.path / "samples" / f"{name}.png", run.path / "samples" / "prompts.txt"
    if not _readable(path):
        return None
    rows = tuple(prompts.read_text("utf-8", errors="replace").splitlines()) if prompts.is_file() else ()
    return Grid(path, group.name if group else "base", group, rows)


def _readable(path: Path) -> bool:
    """Whether the file is a whole picture: a run that is still writing must not hide the others."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except OSError:
        return False
    return True


def embedded(grid: Grid, count: int) -> str:
    """data_uri of one of that many grids of a page."""
    return data_uri(grid.path, MOST if count <= MANY else SMALL, BUDGET // count)


def data_uri(path: Path, most: int, light: int) -> str:
    """The picture inside its own address: PNG of at most that many bytes, else at most that wide and JPEG."""
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
