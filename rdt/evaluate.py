"""`python -m rdt.evaluate run=<output_dir> guidance=aig guidance.power=2`: a saved run under another guidance.

`guidance.curve=[1,2,4]` evaluates several values of the guidance's knob together, which share what they have in common.
The prompts and the noise are those of the run, so that new points are paired with the base's values in result.json.
They are put there beside the run's own, and the report is drawn anew.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rdt.config.check import values
from rdt.config.compose import command_errors, conf_dir, job_errors
from rdt.errors import UsageError
from rdt.training import folder

if TYPE_CHECKING:
    from rdt.evaluation import Evaluation
    from rdt.training.experiment import Experiment, Guided


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """One point, or a curve of them."""
    with job_errors(HydraConfig.get()):
        values(cfg, HydraConfig.get())
        evaluate(folder.read(cfg.run, cfg.get("guidance")))


def evaluate(run: folder.Saved) -> Path:
    """Evaluate the run under its config's guidance, put the points into its record; the path of the new report.

    Where the run was logged to W&B, this is too: a run of job type eval beside it.
    """
    from rdt import wandb
    from rdt.report import report
    from rdt.result import own

    experiment = run.experiment()
    check(run, experiment)
    experiment.policy.prepare(["", *experiment.evaluator.protocol.prompts])
    curve = experiment.curve()
    with wandb.evaluation(run.cfg, run.folder) as logged:
        points = measured(run, experiment, curve)
        page = report([run.folder], run.folder)
        if logged is not None:
            wandb.show(logged, run.folder, own(points))
    return page


def measured(run: folder.Saved, experiment: "Experiment", curve: dict[str, "Guided"]) -> list[dict[str, Any]]:
    """The points of a curve, which are in the record by now, as their samples are."""
    from rdt.report.text import slug
    from rdt.training import record

    done = experiment.evaluator.to(experiment.method.device).run(
        experiment.policy, {name: one.denoiser for name, one in curve.items()}, experiment.base, experiment.sampling,
        rank=0, world=1,
    )  # fmt: skip
    points = [compared(done[name], run, experiment, one.described) for name, one in curve.items()]
    for point in points:
        record.add_point(run.folder, point)
    record.save_samples(run.folder, run.result["base"]["prompts"], {slug(name): one for name, one in done.items()})
    return points


def check(run: folder.Saved, experiment: "Experiment") -> None:
    """UsageError where the recorded base is not what this installation would evaluate."""
    from rdt.training.record import fingerprint

    prompts = list(experiment.evaluator.protocol.prompts)
    if run.result["base"]["prompts"] != prompts:
        raise UsageError(f"run={run.folder} was evaluated on other prompts than {prompts[0]!r} ..., its config's now")
    weights = fingerprint(experiment.policy, experiment.evaluator.rewards)
    if run.result.get("weights") != weights:
        raise UsageError(
            f"run={run.folder} was evaluated on weights {run.result.get('weights')}, model={run.cfg.model.name} and its"
            f" rewards are {weights} now: the points could not be compared; run it again"
        )


def compared(
    done: "Evaluation", run: folder.Saved, experiment: "Experiment", guidance: dict[str, Any]
) -> dict[str, Any]:
    """The point, paired with the base's recorded values."""
    import torch

    from rdt.result import point

    base = {name: torch.tensor(v, dtype=torch.float64) for name, v in run.result["base"]["per_prompt"].items()}
    return point(done, base, experiment.evaluator.protocol, guidance)


def entry() -> None:
    """The command."""
    with command_errors():
        main()


if __name__ == "__main__":
    entry()
