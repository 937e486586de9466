"""`python -m rdt.evaluate run=<output_dir> guidance=aig guidance.power=2`: a saved run under another guidance.

`guidance.curve=[1,2,4]` evaluates several values of the guidance's knob together, which share what they have in common.
The prompts and the noise are those of the run, so that new points are paired with the base's values in result.json.
They are put there beside the run's own, and the report is drawn anew.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rdt.config.check import types
from rdt.config.compose import alone, command, conf_dir
from rdt.errors import UsageError
from rdt.training import saved

if TYPE_CHECKING:
    from rdt.result import Point
    from rdt.training.experiment import Experiment, Guided


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """One point, or a curve of them."""
    with alone(HydraConfig.get()):
        types(cfg, HydraConfig.get())
        evaluate(saved.read(cfg.run, cfg.get("guidance")))


def evaluate(run: saved.Saved) -> Path:
    """Evaluate the run under its config's guidance, put the points into its record; the path of the new report.

    Where the run was logged to W&B, this is too: a run of job type eval beside it.
    """
    from rdt.report.write import report
    from rdt.training import loggers

    experiment = run.experiment()
    check(run, experiment)
    experiment.policy.prepare(["", *experiment.evaluator.protocol.prompts])
    curve = experiment.curve()
    with loggers.evaluation(run.cfg, run.folder) as logged:
        points = measured(run, experiment, curve)
        page = report([run.folder], run.folder)
        if logged is not None:
            loggers.show(logged, run.folder, points[0])
    return page


def measured(run: saved.Saved, experiment: "Experiment", curve: dict[str, "Guided"]) -> list["Point"]:
    """The points of a curve, which are in the record by now, as their samples are."""
    from rdt.result import slug
    from rdt.training import record

    done = experiment.evaluator.to(experiment.method.device).run(
        experiment.policy, {name: one.denoiser for name, one in curve.items()}, experiment.base, experiment.sampling,
        rank=0, world=1,
    )  # fmt: skip
    protocol, base = experiment.evaluator.protocol, run.result.base
    points = [record.point(done[name], one.described, protocol, base) for name, one in curve.items()]
    for point in points:
        record.add_point(run.folder, point)
    record.save_samples(run.folder, list(run.result.base.prompts), {slug(name): one for name, one in done.items()})
    return points


def check(run: saved.Saved, experiment: "Experiment") -> None:
    """UsageError where the recorded base is not what this installation would evaluate."""
    from rdt.training.record import fingerprint

    prompts = list(experiment.evaluator.protocol.prompts)
    if list(run.result.base.prompts) != prompts:
        raise UsageError(f"run={run.folder} was evaluated on other prompts than {prompts[0]!r} ..., its config's now")
    weights = fingerprint(experiment.policy, experiment.evaluator.rewards)
    if run.result.weights != weights:
        raise UsageError(
            f"run={run.folder} was evaluated on weights {run.result.weights}, model={run.cfg.model.name} and its"
            f" rewards are {weights} now: the points could not be compared; run it again"
        )


def entry() -> None:
    """The command."""
    with command():
        main()


if __name__ == "__main__":
    entry()
