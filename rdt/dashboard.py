"""`rdt dashboard entity=me project=rdt`: the W&B workspace that shows a project's runs as this package logs them.

The workspace is code, so that every project gets the same one; saving it takes an account and the extra `dashboard`.
"""

import sys
from typing import Any

from rdt.config.keys import command, parsed

USAGE = """usage: rdt dashboard entity=<name> project=<name> [reward=hps] [diversity=entropy] [name=...]

  entity, project    whose workspace it is; runs must have been logged there
  reward, diversity  the scores on the axes of the front, as the runs' tables call them
  name               of the workspace, "Reward against diversity" unless given"""
KEYS = {"entity": "", "project": "", "reward": "hps", "diversity": "entropy", "name": "Reward against diversity"}
INSTALL = "rdt dashboard needs wandb-workspaces: pip install -c constraints.txt -e '.[dashboard]'"
LOGIN = "rdt dashboard saves to W&B, where no account is configured: wandb login, or set WANDB_API_KEY"


def workspace(given: dict[str, str]) -> Any:
    """The workspace, not saved yet: the front first, then what it was drawn from; ImportError without the extra."""
    import wandb_workspaces.workspaces as ws

    reward, diversity = f"reward/{given['reward']}", f"diversity/{given['diversity']}"
    panels = {
        "Front": front(reward, diversity),
        "Sweep": sweep(reward, diversity),
        "Samples": samples(),
        "Training": training(),
    }
    return ws.Workspace(
        entity=given["entity"],
        project=given["project"],
        name=given["name"],
        sections=[ws.Section(name=name, panels=shown, is_open=True) for name, shown in panels.items()],
        settings=ws.WorkspaceSettings(x_axis="iteration", max_runs=100),
        runset_settings=ws.RunsetSettings(  # not groupby, which would average a sweep into one point
            order=[ws.Ordering(ws.Metric("Group")), ws.Ordering(ws.Metric("JobType"))],
            pinned_columns=["run:displayName", "run:group", "run:jobType"],
        ),
    )


def front(reward: str, diversity: str) -> list[Any]:
    """Every run's point, and the picture and the table of a sweep's pareto run."""
    import wandb_workspaces.reports.v2 as wr

    across = wr.SummaryMetric(f"final/{diversity}")
    scatters = [
        wr.ScatterPlot(title=f"{up} against {diversity}", x=across, y=wr.SummaryMetric(f"final/{up}"))
        for up in (reward, "kl_nats")
    ]
    picture = wr.MediaBrowser(title="front", media_keys=["pareto/front"], num_columns=1)
    return [*scatters, picture, wr.WeavePanelSummaryTable(table_name="pareto/table")]


def sweep(reward: str, diversity: str) -> list[Any]:
    """What was varied, beside what came of it."""
    import wandb_workspaces.reports.v2 as wr

    chosen = [wr.Config(name) for name in ("method.name", "method.lr", "method.kl_coef", "seed")]
    came = [wr.SummaryMetric(name) for name in ("compute/network_passes", f"final/{reward}", f"final/{diversity}")]
    return [wr.ParallelCoordinatesPlot(columns=[wr.ParallelCoordinatesPlotColumn(metric=m) for m in [*chosen, *came]])]


def samples() -> list[Any]:
    """The grids of base and tuned model at equal noise, and those of a sweep's pareto run."""
    import wandb_workspaces.reports.v2 as wr

    pairs = wr.MediaBrowser(title="base and tuned", media_keys=["samples/base", "samples/tuned"], num_columns=2)
    return [pairs, wr.MediaBrowser(title="along the front", media_keys=["pareto/samples"], num_columns=4)]


def training() -> list[Any]:
    """Curves over iterations: what is climbed, what it costs, and the evaluations in between."""
    import wandb_workspaces.reports.v2 as wr

    curves = [wr.LinePlot(title=name, x="iteration", y=[f"train/{name}"]) for name in ("reward", "kl_nats", "loss")]
    return [*curves, wr.LinePlot(title="evaluations", x="iteration", metric_regex="eval/.*")]


def entry() -> int:
    """Exit status 0 with the address of the workspace, or 2 after one line on stderr."""
    return command(USAGE, lambda arguments: print(f"dashboard {save(settings(arguments))}"))


def settings(arguments: list[str]) -> dict[str, str]:
    """What is given; ValueError where something is unknown, empty or missing."""
    given = parsed(arguments, KEYS)
    for key in ("entity", "project"):
        if not given[key]:
            raise ValueError(f"{key}= is missing: whose workspace it is; see rdt dashboard --help")
    return given


def save(given: dict[str, str]) -> str:
    """Save the workspace as a new view: its address; one line where the extra, an account or the server is missing."""
    try:
        made = workspace(given)
    except ModuleNotFoundError as error:
        raise ValueError(INSTALL) from error
    from rdt.wandb import has_account

    if not has_account():
        raise ValueError(LOGIN)
    import wandb

    try:
        return str(made.save().url)
    except (wandb.errors.Error, RuntimeError) as error:
        raise ValueError(f"entity={given['entity']} project={given['project']}: {error}") from None


if __name__ == "__main__":
    sys.exit(entry())
