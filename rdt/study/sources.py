"""The pictures of a study: the sample grids that runs recorded for the base and for every point, and cuts from them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from rdt.report.gather import compare
from rdt.report.records import Point, Run
from rdt.report.text import slug

if TYPE_CHECKING:  # Pillow is imported when a picture is opened
    from PIL import Image

HAIRLINE = 2  # pixels of white to the right of and below every image of a grid


@dataclass(frozen=True)
class SampleGrid:
    """The picture that a run saved of one point: one prompt per row, one noise per column."""

    run: Run
    point: Point

    @property
    def path(self) -> Path:
        """Return the file: "base", "tuned" for the run's own guidance, or named after another point's label."""
        names = {id(self.run.base): "base", id(self.run.points[0]): "tuned"}
        return self.run.path / "samples" / f"{names.get(id(self.point)) or slug(self.point.label)}.png"

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """Return the prompts, one per row."""
        return tuple(_existing(self.path.with_name("prompts.txt")).read_text("utf-8").splitlines())

    @property
    def columns(self) -> int:
        """Return the number of columns: the configured one, or the images per prompt if they are fewer."""
        return min(int(self._evaluation["grid"][1]), self.point.n_per_prompt)

    def noise(self, row: int) -> tuple:
        """Identify a row's noise: in rows with equal results, equal columns started from the same latent."""
        return self.run.model, self._evaluation.get("seed"), self.point.n_per_prompt, row

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
        if not isinstance(evaluation, dict) or not evaluation.get("grid"):
            raise ValueError(f"{self.run.path / 'config.yaml'} has no evaluation.grid, the rows and columns of samples")
        return evaluation


@lru_cache(maxsize=8)
def _opened(path: Path) -> Image.Image:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


@dataclass(frozen=True)
class Setting:
    """A model under one guidance, as it is compared; runs that differ in their seed alone are one setting."""

    name: str
    grids: dict[int, SampleGrid]  # by seed


def settings_of(runs: list[Run]) -> list[Setting]:
    """Return the base and every point of the runs, named as in the report, after the model if there are several."""
    comparisons = compare(runs)
    several = len({comparison.model for comparison in comparisons}) > 1
    settings = []
    for comparison in comparisons:
        prefix = f"{comparison.model} " * several
        bases = {run.seed: SampleGrid(run, run.base) for group in comparison.groups for run in group.runs}
        settings.append(Setting(f"{prefix}base", bases))
        for group in comparison.groups:
            grids = {run.seed: SampleGrid(run, point) for run, point in zip(group.runs, group.points, strict=True)}
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
