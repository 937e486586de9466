"""Evaluate a finished run under another guidance: `python -m rdt.evaluate run=<output_dir> guidance=aig`.

`guidance.curve=[1,2,4]` evaluates several values of the guidance's knob together, which saves the passes they share.
The prompts and the noise are those of the run, so that new points are paired with the base's values in result.json.
The points are added to result.json beside the run's own, and the report is drawn again.

`checkpoints=all` evaluates the adapters of the run's checkpoints instead: the path of its training as a front.

`model=sd15 lora=<file, folder or hub id>` evaluates an adapter of any origin into another folder.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from rdt import targets
from rdt.config import preflight
from rdt.config.check import values
from rdt.config.compose import command_errors, conf_dir, in_sweep, job_errors, typed
from rdt.config.keys import override_key
from rdt.config.plan import evaluation_plan
from rdt.errors import UsageError
from rdt.training import early, finished, lock, paths, standalone
from rdt.training.sweep import SweepReport

if TYPE_CHECKING:
    from rdt.result import Point
    from rdt.training.experiment import Experiment, Guided


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Evaluate one point or a curve."""
    with job_errors(HydraConfig.get()), targets.permitted(finished.allowed(cfg)):
        values(cfg, HydraConfig.get())
        if not cfg.run:
            raise UsageError(
                "run= is missing; give the output folder of a finished run, or any adapter as model=<model>"
                " lora=<file, folder or hub id>"
            )
        run = finished.read_finished(cfg.run, cfg.get("guidance"))
        chosen = (
            []
            if cfg.checkpoints is None
            else early.chosen_checkpoints(run.folder, cfg.checkpoints, run.result.iterations)
        )
        extend(run, chosen)


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="evaluate_model")
def model_main(cfg: DictConfig) -> None:
    """Evaluate one adapter, or a base; a sweep calls this once per job."""
    hydra_config = HydraConfig.get()
    with job_errors(hydra_config):
        place_outputs(cfg, hydra_config)
        further = (paths.make_absolute, *standalone.CHECKS)
        for line in preflight.check_evaluation(cfg, hydra_config, *further):
            print(f"note     {line}", flush=True)
        if cfg.dry_run:
            print(evaluation_plan(cfg))
        else:
            evaluate_model(cfg)


def evaluate_model(cfg: DictConfig) -> None:
    """Evaluate a checked config into its folder and draw the report, unless that was done."""
    from rdt.report.write import report
    from rdt.training.abort import explain_full_disk, explain_out_of_memory

    out = Path(cfg.output_dir)
    if standalone.is_done(cfg):
        print(f"finished {out}")
        return
    named = targets.permitted(targets.named_in(OmegaConf.to_container(cfg)))
    with lock.held("output_dir", out), explain_full_disk(out), explain_out_of_memory(), named:
        standalone.perform(cfg, out)
        report([out], out)


def place_outputs(cfg: DictConfig, hydra_config: Any) -> None:
    """Set where the outputs go and which noise is drawn, and leave out the consistency adapter, for training alone."""
    with open_dict(cfg):
        cfg.overrides = typed(hydra_config)
        keys = {override_key(word) for word in cfg.overrides}
        if in_sweep(hydra_config) and "output_dir" not in keys:
            cfg.output_dir = hydra_config.runtime.output_dir
        if "seed" in keys:
            cfg.evaluation.seed = cfg.seed
        if "consistency" in cfg.model.policy:
            cfg.model.policy.consistency = None
        cfg.output_dir = str(Path(str(cfg.output_dir)).expanduser().absolute())


def extend(run: finished.FinishedRun, checkpoints: Sequence[Path] = ()) -> Path:
    """Evaluate the run under its config's guidance, add the points to its result, and return the path of the report.

    With checkpoints, their adapters are evaluated in place of the finished one.
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
        curves = early.curves(experiment, curve, checkpoints) if checkpoints else [curve]
        points = [point for one in curves for point in add_curve(run, experiment, one)]
        page = report([run.folder], run.folder)
        if logged is not None:
            wandb_summary.show(logged, run.folder, points[0])
    return page


def add_curve(run: finished.FinishedRun, experiment: "Experiment", curve: dict[str, "Guided"]) -> list["Point"]:
    """Evaluate the points of a curve, write them and their samples into the run's folder, and return them."""
    from rdt.result import sample_names
    from rdt.training import record
    from rdt.training.progress import evaluating

    evaluator, views = experiment.evaluator, {name: one.denoiser for name, one in curve.items()}
    with evaluating(evaluator, len(views), rank=0, world=1):
        done = evaluator.to(experiment.method.device).run(
            experiment.policy, views, experiment.base, experiment.sampling, rank=0, world=1
        )
    protocol, base = evaluator.protocol, run.result.base
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
    """Run the command; one that names a model or an adapter evaluates these, and a sweep of it ends with a report."""
    keys = {override_key(word) for word in sys.argv[1:]}
    with command_errors():
        if "run" in keys or not keys & {"model", "lora"}:
            main()
            return
        try:
            model_main()
        finally:
            SweepReport.draw()


if __name__ == "__main__":
    entry()
