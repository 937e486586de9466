"""Where a study's pictures come from: the sample grids that runs have recorded of the base and of every point."""

from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

from rdt.report.compare import compare
from rdt.report.read import Run
from rdt.result import Point, slug


@dataclass(frozen=True)
class Grid:
    """A prompt per row, a noise per column, as `rdt.training.record` saves them."""

    run: Run
    point: Point

    @property
    def path(self) -> Path:
        """The base, what the run trained under its own guidance, or another point by its label."""
        names = {id(self.run.result.base): "base", id(self.run.result.points[0]): "tuned"}
        return self.run.path / "samples" / f"{names.get(id(self.point)) or slug(self.point.label)}.png"

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """Of its rows."""
        return tuple(_found(self.path.with_name("prompts.txt")).read_text("utf-8").splitlines())

    @property
    def columns(self) -> int:
        """As many as the run was told to record, or had."""
        return min(int(self._evaluation["grid"][1]), self.point.n_per_prompt)

    def noise(self, row: int) -> tuple:
        """What rows of equal noise have in common: there, equal columns began from the same latent."""
        return self.run.result.model, self._evaluation.get("seed"), self.point.n_per_prompt, row

    def check(self) -> None:
        """ValueError where the picture is missing, broken, or of another size than its prompts and columns make."""
        from PIL import Image

        try:
            with Image.open(_found(self.path)) as image:
                image.load()
        except OSError as error:
            raise ValueError(f"{self.path} is no whole picture: {error}") from error
        rows = len(self.prompts)
        if not rows * self.columns or image.height % rows or image.width % self.columns:
            raise ValueError(f"{self.path} is {image.size} pixels: no {rows} rows of {self.columns} images")

    @property
    def _evaluation(self) -> dict:
        evaluation = self.run.config.get("evaluation")
        if not isinstance(evaluation, dict) or not evaluation.get("grid"):
            raise ValueError(f"{self.run.path / 'config.yaml'} does not say evaluation.grid: how its samples are laid")
        return evaluation


@dataclass(frozen=True)
class Setting:
    """What is compared: a model under one guidance, by the seed of its run."""

    name: str
    grids: dict[int, Grid]


def settings_of(runs: list[Run]) -> list[Setting]:
    """The base and every point of the runs, named as in the report, after the model where there are several."""
    comparisons = compare(runs)
    several = len({comparison.model for comparison in comparisons}) > 1
    settings = []
    for comparison in comparisons:
        before = f"{comparison.model} " * several
        own = {run.result.seed: Grid(run, run.result.base) for group in comparison.groups for run in group.runs}
        settings.append(Setting(f"{before}base", own))
        for group in comparison.groups:
            grids = {run.result.seed: Grid(run, point) for run, point in zip(group.runs, group.points, strict=True)}
            settings.append(Setting(before + group.name, grids))
    return settings


def chosen(settings: list[Setting], names: str) -> list[Setting]:
    """Those whose name is, or matches, one of the comma-separated names; all of them where none is given."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = [setting.name for setting in settings]
    for name in wanted:
        if not any(_named(one, name) for one in known):
            raise ValueError(f"settings={name} is none of {', '.join(known)}")
    kept = [one for one in settings if not wanted or any(_named(one.name, name) for name in wanted)]
    if len(kept) < 2:
        raise ValueError(f"only {', '.join(one.name for one in kept)}: a comparison wants two settings or more")
    _check(kept)
    return kept


def _check(settings: list[Setting]) -> None:
    """ValueError where a name or a picture is not one setting's alone, or a picture cannot be used."""
    grids = [grid for one in settings for grid in one.grids.values()]
    for name, count in Counter(one.name for one in settings).items():
        if count > 1:
            raise ValueError(f"{name} was evaluated in two ways (prompts, images per prompt): study those runs apart")
    for path, count in Counter(grid.path for grid in grids).items():
        if count > 1:
            raise ValueError(f"{path} is named after {count} settings: it shows the last that was evaluated")
    for grid in grids:
        grid.check()


def _named(name: str, pattern: str) -> bool:
    return name == pattern or fnmatch(name, pattern)


def _found(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path} is missing: evaluate the run again, or leave the setting out with settings=")
    return path
