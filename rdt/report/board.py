"""Logs the front to W&B, as a run of job type pareto in the group of the runs that it is drawn from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rdt.report.compare import Comparison
from rdt.report.grids import grids_of
from rdt.report.read import Run
from rdt.report.tables import wandb_rows
from rdt.report.text import short
from rdt.wandb import Job, kept_id, start

UNSET = {"project": "rdt", "entity": None, "group": None, "mode": None}
GRIDS = 24  # at most, per comparison; the others stay in the run folders
ID = "wandb_pareto_id"  # a file in the report's folder, so that a report drawn again continues the same W&B run


def log_pareto(comparisons: list[Comparison], out: Path) -> None:
    """Log the picture and, by comparison, the table, a scatter per reward, shares of the limit and sample grids."""
    runs = [run for comparison in comparisons for run in comparison.runs]
    methods = tuple(sorted({run.result.method for run in runs}))
    config = {"method": list(methods), "runs": [str(run.path) for run in runs]}
    with start(_destination(runs), out, Job("pareto", "pareto", methods, config, kept_id(out / ID))) as board:
        board.log(dict(_logged(comparisons, out)))


def _destination(runs: list[Run]) -> dict[str, Any]:
    """Return project, entity, group and mode of the first run that was logged to W&B."""
    return UNSET | next((found for run in runs if (found := run.setting("logger.wandb"))), {})


def _logged(comparisons: list[Comparison], out: Path) -> Iterator[tuple[str, Any]]:
    """Yield what is logged by its key, with the number of the comparison if there are several."""
    import wandb

    yield "pareto/front", wandb.Image(str(out / "front.png"))
    yield "pareto/report", wandb.Html(str(out / "report.html"), inject=False)
    for index, one in enumerate(comparisons):
        prefix = f"pareto/{index}/" if len(comparisons) > 1 else "pareto/"
        table = wandb.Table(*wandb_rows(one))
        yield f"{prefix}table", table
        for reward in one.rewards:
            chart = wandb.plot.scatter(table, one.diversity, reward, title=f"{reward} against {one.diversity}")
            yield f"{prefix}{short(reward)}", chart
        for found in one.limit_shares():
            yield f"{prefix}share_of_limit/{found.method}/{short(found.reward)}", found.share
            yield f"{prefix}gap_to_limit/{found.method}/{short(found.reward)}", found.gap
        grids = [wandb.Image(str(grid.path), caption=grid.title) for grid in grids_of(one, GRIDS)]
        if grids:
            yield f"{prefix}samples", grids
