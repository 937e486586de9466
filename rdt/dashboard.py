"""`rdt dashboard entity=me project=rdt`: saves the W&B workspace that shows a project's runs as this package logs them.

The workspace is written as code, so that every project gets the same one. Saving it takes a W&B account and the extra
`dashboard`.
"""

import sys
from typing import Any

from rdt.config.keys import command, parsed_keys

USAGE = """usage: rdt dashboard entity=<name> project=<name> [reward=hps] [diversity=vendi] [name=...]

  entity, project    the owner and name of the project, in which runs must have been logged
  reward, diversity  the scores on the axes of the front, as the runs' tables name them, such as diversity=clip_vendi
  name               the name of the workspace, "Reward against diversity" unless given"""
KEYS = {"entity": "", "project": "", "reward": "hps", "diversity": "vendi", "name": "Reward against diversity"}
INSTALL = "rdt dashboard needs wandb-workspaces: pip install -c constraints.txt -e '.[dashboard]'"
LOGIN = "rdt dashboard saves to W&B, but no account is configured: run wandb login, or set WANDB_API_KEY"


def workspace(given: dict[str, str]) -> Any:
    """Return the workspace, not saved yet; ImportError without the extra.

    Its sections are the front, what the sweep varied, the samples and the training curves.
    """
    import wandb_workspaces.workspaces as ws

    reward, diversity = f"reward/{given['reward']}", f"diversity/{given['diversity']}"
    panels = {
        "Front": front_panels(reward, diversity),
        "Sweep": sweep_panels(reward, diversity),
        "Samples": sample_panels(),
        "Training": training_panels(),
    }
    return ws.Workspace(
        entity=given["entity"],
        project=given["project"],
        name=given["name"],
        sections=[ws.Section(name=name, panels=shown, is_open=True) for name, shown in panels.items()],
        settings=ws.WorkspaceSettings(x_axis="iteration", max_runs=100),
        runset_settings=ws.RunsetSettings(  # without groupby, which would average a sweep into one point
            order=[ws.Ordering(ws.Metric("Group")), ws.Ordering(ws.Metric("JobType"))],
            pinned_columns=["run:displayName", "run:group", "run:jobType"],
        ),
    )


def front_panels(reward: str, diversity: str) -> list[Any]:
    """Return scatters of all runs' final points, and the picture and table that a sweep's pareto run logged."""
    import wandb_workspaces.reports.v2 as wr

    across = wr.SummaryMetric(f"final/{diversity}")
    scatters = [
        wr.ScatterPlot(title=f"{up} against {diversity}", x=across, y=wr.SummaryMetric(f"final/{up}"))
        for up in (reward, "kl_nats", "hacking_gap")
    ]
    picture = wr.MediaBrowser(title="front", media_keys=["pareto/front"], num_columns=1)
    return [*scatters, picture, wr.WeavePanelSummaryTable(table_name="pareto/table")]


def sweep_panels(reward: str, diversity: str) -> list[Any]:
    """Return parallel coordinates of the settings that sweeps usually vary, the cost and the final scores."""
    import wandb_workspaces.reports.v2 as wr

    varied = [wr.Config(name) for name in ("method.name", "method.lr", "method.kl_coef", "seed")]
    results = [wr.SummaryMetric(name) for name in ("compute/network_passes", f"final/{reward}", f"final/{diversity}")]
    columns = [wr.ParallelCoordinatesPlotColumn(metric=metric) for metric in [*varied, *results]]
    return [wr.ParallelCoordinatesPlot(columns=columns)]


def sample_panels() -> list[Any]:
    """Return the sample grids of base and tuned model at equal noise, and those that a sweep's pareto run logged."""
    import wandb_workspaces.reports.v2 as wr

    pairs = wr.MediaBrowser(title="base and tuned", media_keys=["samples/base", "samples/tuned"], num_columns=2)
    return [pairs, wr.MediaBrowser(title="along the front", media_keys=["pareto/samples"], num_columns=4)]


def training_panels() -> list[Any]:
    """Return curves over iterations: the reward, the KL and the evaluations during training."""
    import wandb_workspaces.reports.v2 as wr

    curves = [wr.LinePlot(title=name, x="iteration", y=[f"train/{name}"]) for name in ("reward", "kl_nats")]
    return [*curves, wr.LinePlot(title="evaluations", x="iteration", metric_regex="eval/.*")]


def entry() -> int:
    """Save the workspace and print its address; return exit status 0, or 1 after one line on stderr."""
    return command(USAGE, lambda arguments: print(f"dashboard {save_workspace(chosen_settings(arguments))}"))


def chosen_settings(arguments: list[str]) -> dict[str, str]:
    """Return all settings, by default those of KEYS; ValueError if one is unknown, empty or missing."""
    given = parsed_keys(arguments, KEYS)
    for key in ("entity", "project"):
        if not given[key]:
            raise ValueError(f"{key}= is missing: want the {key} whose runs are shown; see rdt dashboard --help")
    return given


def save_workspace(given: dict[str, str]) -> str:
    """Save the workspace as a new view and return its address.

    ValueError, in one line, if the extra or an account is missing or W&B refuses.
    """
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
