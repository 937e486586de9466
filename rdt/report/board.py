"""The front as a W&B run of job type pareto, beside the runs it is drawn from."""

import os
from pathlib import Path
from typing import Any

from rdt.report.fronts import Comparison
from rdt.report.page import members
from rdt.report.records import Run
from rdt.report.table import columns
from rdt.report.text import short

HOST = "api.wandb.ai"


def log_pareto(comparisons: list[Comparison], out: Path) -> None:
    """Log a table, a scatter per reward and the picture; offline, below out, where no account is configured."""
    import wandb

    first = members(comparisons[0])[0]
    settings = wandb.Settings(silent=True, console="off")
    run = wandb.init(
        project=_configured(first, "project") or "rdt", group=_configured(first, "group") or None, job_type="pareto",
        name="pareto", dir=str(out), mode=_mode(), settings=settings, reinit="finish_previous",
        tags=sorted({method for comparison in comparisons for method in comparison.methods}),
    )  # fmt: skip
    for index, comparison in enumerate(comparisons):
        prefix = f"pareto/{index}/" if len(comparisons) > 1 else "pareto/"
        table = wandb.Table(*_table(comparison))
        charts = {
            f"{prefix}{short(reward)}": wandb.plot.scatter(
                table,
                short(comparison.diversity),
                short(reward),
                title=f"{short(reward)} against {short(comparison.diversity)}",
            )
            for reward in comparison.rewards
        }
        run.log({f"{prefix}table": table, **charts})
    run.log({"pareto/front": wandb.Image(str(out / "front.png"))})
    run.finish()


def _table(comparison: Comparison) -> tuple[list[str], list[list[object]]]:
    """Columns and one row per point of every run, after the base."""
    names = columns(comparison)
    rows: list[list[object]] = [["base", "base", None, *(_mean(comparison.base, n) for n in names)]]
    for group in comparison.groups:
        for run, point in zip(group.runs, group.points, strict=True):
            rows.append([group.name, group.method, run.seed, *(_mean(point.scores, n) for n in names)])
    return ["group", "method", "seed", *map(short, names)], rows


def _mean(scores: dict, name: str) -> float | None:
    return scores[name].value.mean if name in scores else None


def _configured(run: Run, key: str) -> str:
    """A W&B setting of the run's config: under logger, or at the top."""
    logger = run.config.get("logger")
    value = (logger.get(key) if isinstance(logger, dict) else None) or run.config.get(key)
    return value if isinstance(value, str) else ""


def _mode() -> Any:
    """WANDB_MODE where it is set, else online with a key at hand and offline without."""
    import netrc

    if mode := os.environ.get("WANDB_MODE"):
        return mode
    try:
        login = netrc.netrc().authenticators(HOST)
    except (OSError, netrc.NetrcParseError):
        login = None
    return "online" if login or os.environ.get("WANDB_API_KEY") else "offline"
