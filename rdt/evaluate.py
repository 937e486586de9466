"""Evaluate a finished run under another guidance: `python -m rdt.evaluate run=<output_dir> guidance=aig`.

`guidance.curve=[1,2,4]` evaluates several values of the guidance's knob together, which saves the passes they share.
The prompts and the noise are those of the run, so that new points are paired with the base's values in result.json.
The points are added to result.json beside the run's own, and the report is drawn again.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rdt import targets
from rdt.config.check import values
from rdt.config.compose import command_errors, conf_dir, job_errors
from rdt.errors import UsageError
from rdt.training import finished

if TYPE_CHECKING:
    from rdt.result import Point
    from rdt.training.experiment import Experiment, Guided


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Evaluate one point or a curve."""
    with job_errors(HydraConfig.get()), targets.permitted(finished.allowed(cfg)):
        values(cfg, HydraConfig.get())
        extend(finished.read_finished(cfg.run, cfg.get("guidance")))


def extend(run: finished.FinishedRun) -> Path:
    """Evaluate the run under its config's guidance, add the points to its result, and return the path of the report.

    If the run was logged to W&B, the points are too: as a run of job type "eval" beside it.
    """
    from rdt.report.write import report
    from rdt.training import wandb_summary

    experiment = run.experiment()
    with finished.misread(run.folder):
        _ = experiment.evaluator
    check_same_base(run, experiment)
    experiment.policy.prepare(["", *experiment.evaluator.protocol.prompts])
    curve = experiment.curve()  # raises ValueError for a value out of range, before a W&B run is started
    with wandb_summary.evaluation_run(run.cfg, run.folder) as logged:
        points = add_curve(run, experiment, curve)
        page = report([run.folder], run.folder)
        if logged is not None:
            wandb_summary.show(logged, run.folder, points[0])
    return page


def add_curve(run: finished.FinishedRun, experiment: "Experiment", curve: dict[str, "Guided"]) -> list["Point"]:
    """Evaluate the points of a curve, write them and their samples into the run's folder, and return them."""
    from rdt.result import sample_names
    from rdt.training import record

    done = experiment.evaluator.to(experiment.method.device).run(
        experiment.policy, {name: one.denoiser for name, one in curve.items()}, experiment.base, experiment.sampling,
        rank=0, world=1,
    )  # fmt: skip
    protocol, base = experiment.evaluator.protocol, run.result.base
    points = [record.point(done[name], one.described, protocol, base) for name, one in curve.items()]
    known = record.add_points(run.folder, points, run.digest).points
    names = {point.label: name for point, name in zip(known, sample_names(known), strict=True)}
    record.save_samples(run.folder, base.prompts, {names[label]: one for label, one in done.items()})
    return points


def check_same_base(run: finished.FinishedRun, experiment: "Experiment") -> None:
    """Raise UsageError if the base in the run's result is not the base that this installation would evaluate."""
    from rdt.training.record import fingerprint

    prompts = list(experiment.evaluator.protocol.prompts)
    if list(run.result.base.prompts) != prompts:
        raise UsageError(
            f"run={run.folder} was evaluated on other prompts than its config selects now (first: {prompts[0]!r});"
            " run it again"
        )
    weights = fingerprint(experiment.policy, experiment.evaluator.rewards)
    if run.result.weights != weights:
        raise UsageError(
            f"run={run.folder} was evaluated on weights {run.result.weights}, but model={run.cfg.model.name} and its"
            f" rewards have weights {weights} now, so that points cannot be compared; run it again"
        )


def entry() -> None:
    """Run the command."""
    with command_errors():
        main()


if __name__ == "__main__":
    entry()
