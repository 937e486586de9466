"""Finds the pictures of a study: the sample grids that runs saved of the base and of every point."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from rdt.prompts import ROWS, read_rows
from rdt.report.compare import Comparison
from rdt.report.read import Run
from rdt.result import Point, sample_names

if TYPE_CHECKING:  # Pillow is imported when a picture is opened
    from PIL import Image

HAIRLINE = 2  # pixels of white to the right of and below every image of a grid


@dataclass(frozen=True)
class SampleGrid:
    """Finds the picture that a run saved of one point: one prompt per row, one noise per column."""

    run: Run
    point: Point

    @property
    def path(self) -> Path:
        """Return the file: "base", "tuned" for the run's own guidance, or named after another point's label."""
        points = self.run.result.points
        names = dict(zip(map(id, points), sample_names(points), strict=True))
        return self.run.path / "samples" / f"{names.get(id(self.point), 'base')}.png"

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """Return the prompts, one per row."""
        return read_rows(_existing(self.path.with_name(ROWS)).parent)

    @property
    def columns(self) -> int:
        """Return the number of columns: the configured one, or the images per prompt if they are fewer."""
        return min(self._evaluation["grid"][1], self.point.n_per_prompt)

    def noise(self, row: int) -> tuple:
        """Identify a row's noise: in rows with equal results, equal columns started from the same latent."""
        return self.run.result.model, self._evaluation.get("seed"), self.point.n_per_prompt, row

    def image(self, row: int, column: int) -> Image.Image:
        """Cut out one image."""
        whole = _opened(self.path)
        width, height = whole.width // self.columns, whole.height // len(self.prompts)
        left, top = column * width, row * height
        return whole.crop((left, top, left + width - HAIRLINE, top + height - HAIRLINE))

    def check(self) -> None:
        """Raise ValueError if the picture is missing, broken, or does not divide into its rows and columns."""
        from PIL import Image

        try:
            with Image.open(_existing(self.path)) as image:
                image.load()
        except OSError as error:
            raise ValueError(f"{self.path} is not a whole picture: {error}") from error
        rows = len(self.prompts)
        if not rows * self.columns or image.height % rows or image.width % self.columns:
            raise ValueError(f"{self.path} has {image.size} pixels, not {rows} rows of {self.columns} images")

    @property
    def _evaluation(self) -> dict:
        evaluation = self.run.config.get("evaluation")
        grid = evaluation.get("grid") if isinstance(evaluation, dict) else None
        if isinstance(evaluation, dict) and isinstance(grid, list) and [type(size) for size in grid] == [int, int]:
            return evaluation
        broken = self.run.config_error
        reason = f"cannot be read: {broken}" if broken else "has no evaluation.grid, the rows and columns of samples"
        raise ValueError(f"{self.run.path / 'config.yaml'} {reason}")


@lru_cache(maxsize=8)
def _opened(path: Path) -> Image.Image:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


@dataclass(frozen=True)
class Setting:
    """Names a model under one guidance; runs that differ in their seed alone are one setting."""

    name: str
    grids: dict[int, SampleGrid]  # by seed


def settings_of(comparisons: list[Comparison]) -> list[Setting]:
    """Return the base and every point of the runs, named as in the report, after the model if there are several."""
    several = len({comparison.model for comparison in comparisons}) > 1
    settings = []
    for comparison in comparisons:
        prefix = f"{comparison.model} " * several
        compared = [run for group in comparison.groups for run in group.runs]
        bases = {run.result.seed: SampleGrid(run, run.result.base) for run in compared}
        settings.append(Setting(f"{prefix}base", bases))
        for group in comparison.groups:
            points = zip(group.runs, group.points, strict=True)
            grids = {run.result.seed: SampleGrid(run, point) for run, point in points}
            settings.append(Setting(prefix + group.name, grids))
    return settings


def chosen(settings: list[Setting], names: str) -> list[Setting]:
    """Return the settings that match the comma-separated names, all if there are none.

    ValueError if a name matches nothing, fewer than two settings remain, or one cannot be used.
    """
    patterns = [name.strip() for name in names.split(",") if name.strip()]
    known = [setting.name for setting in settings]
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in known):
            raise ValueError(f"settings={pattern} is none of {', '.join(known)}")
    kept = [one for one in settings if not patterns or any(_matches(one.name, pattern) for pattern in patterns)]
    if len(kept) < 2:
        raise ValueError(f"only {', '.join(one.name for one in kept)} is left: a comparison needs two settings or more")
    _check(kept)
    return kept


def _check(settings: list[Setting]) -> None:
    """Raise ValueError if two settings share a name or a picture, or a picture cannot be used."""
    grids = [grid for one in settings for grid in one.grids.values()]
    for name, count in Counter(one.name for one in settings).items():
        if count > 1:
            raise ValueError(
                f"{name} was evaluated in two ways (prompts, images per prompt): make one study of each set of runs"
            )
    for path, count in Counter(grid.path for grid in grids).items():
        if count > 1:
            raise ValueError(f"{path} is named after {count} settings: it shows the last that was evaluated")
    for grid in grids:
        grid.check()


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatch(name, pattern)


def _existing(path: Path) -> Path:
    """Return the path; ValueError if there is no such file."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: evaluate the run again, or leave the setting out with settings=")
    return path
