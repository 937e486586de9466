"""The front as a W&B run of job type pareto, in the group of the runs it is drawn from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rdt.report.fronts import Comparison
from rdt.report.grids import grids_of
from rdt.report.page import members
from rdt.report.records import Run
from rdt.report.table import columns, limit_rows
from rdt.result import Score
from rdt.wandb import Job, kept_id, start

UNSET = {"project": "rdt", "entity": None, "group": None, "mode": None}
GRIDS = 24  # per comparison; the rest stays in the run folders
ID = "wandb_pareto_id"  # in the folder of the report, so that it is one run however often it is drawn


def log_pareto(comparisons: list[Comparison], out: Path) -> None:
    """Log the front's table, a scatter per reward, the shares of the limit, the picture and the sample grids."""
    runs = [run for comparison in comparisons for run in members(comparison)]
    methods = tuple(sorted({run.method for run in runs}))
    config = {"method": list(methods), "runs": [str(run.path) for run in runs]}
    with start(_wanted(runs), out, Job("pareto", "pareto", methods, config, kept_id(out / ID))) as board:
        board.log(dict(_shown(comparisons, out)))


def _wanted(runs: list[Run]) -> dict[str, Any]:
    """Project, entity, group and mode of the first run that was logged to W&B."""
    loggers = [run.config.get("logger") for run in runs]
    found = [logger["wandb"] for logger in loggers if isinstance(logger, dict) and logger.get("wandb")]
    return UNSET | (found[0] if found else {})


def _shown(comparisons: list[Comparison], out: Path) -> Iterator[tuple[str, Any]]:
    """What is logged, by its key; a comparison among several is numbered."""
    import wandb

    yield "pareto/front", wandb.Image(str(out / "front.png"))
    for index, one in enumerate(comparisons):
        prefix = f"pareto/{index}/" if len(comparisons) > 1 else "pareto/"
        table = wandb.Table(*rows_of(one))
        yield f"{prefix}table", table
        for reward in one.rewards:
            chart = wandb.plot.scatter(table, one.diversity, reward, title=f"{reward} against {one.diversity}")
            yield f"{prefix}{reward.rpartition('/')[2]}", chart
        for method, reward, share, gap in limit_rows(one):
            yield f"{prefix}share_of_limit/{method}/{reward}", share
            yield f"{prefix}gap_to_limit/{method}/{reward}", gap
        grids = [wandb.Image(str(grid.path), caption=grid.title) for grid in grids_of(one, GRIDS)]
        if grids:
            yield f"{prefix}samples", grids


def rows_of(comparison: Comparison) -> tuple[list[str], list[list[Any]]]:
    """Columns and a row per point of every run after the base: what it is, where it is on a front, its means."""
    names = columns(comparison)
    rows: list[list[Any]] = [
        ["base", "base", None, *(None for _ in comparison.rewards), *_means(comparison.base, names)]
    ]
    fronts = [_fronts(comparison, reward) for reward in comparison.rewards]
    for group in comparison.groups:
        on = [id(group) in front for front in fronts]
        for run, point in zip(group.runs, group.points, strict=True):
            rows.append([group.name, group.method, run.seed, *on, *_means(point.scores, names)])
    return ["group", "method", "seed", *(f"on front of {name}" for name in comparison.rewards), *names], rows


def _fronts(comparison: Comparison, reward: str) -> set[int]:
    """The groups that no other of their method dominates, by identity."""
    found = (comparison.on_front(method, reward) for method in comparison.methods)
    return {id(group) for groups, mask in found for group, on in zip(groups, mask, strict=True) if on}


def _means(scores: dict[str, Score], names: list[str]) -> list[float | None]:
    return [scores[name].value.mean if name in scores else None for name in names]
