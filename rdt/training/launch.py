"""Run a resolved config: build its parts, train, evaluate, and record.

`launch` does that in this process for one device, otherwise in one process per device, each of which is
`python -m rdt.training.launch resolved.yaml <process id of the launcher> <checkpoint>`.
"""

import math
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf

from rdt import checkpoint, ranks, targets, weights
from rdt.config.judges import compared_judge
from rdt.errors import UsageError
from rdt.evaluation import Evaluation, Evaluator
from rdt.methods.base import Method
from rdt.models.lora import read_lora
from rdt.policy import INIT, Policy
from rdt.stream import PromptData
from rdt.training import folder, lock, processes, record
from rdt.training.abort import explain_full_disk, explain_out_of_memory, stop_on_signals
from rdt.training.average import Averaging, settle
from rdt.training.callbacks import Checkpoints, SmallEvaluations
from rdt.training.checkpoint_reader import CheckpointReader
from rdt.training.constraint_callback import ConstraintWatch
from rdt.training.constraints import constraints_of
from rdt.training.environment import LaunchedEnvironment
from rdt.training.experiment import Experiment, Guided
from rdt.training.loggers import kept_rows, loggers
from rdt.training.progress import TrainingProgress, evaluating
from rdt.training.silence import silence_libraries
from rdt.training.training_samples import TrainingSamples
from rdt.training.wandb_summary import conclude


def launch(cfg: DictConfig) -> bool:
    """Run the config on its devices and return whether rank 0 ran on this machine.

    UsageError with the reason if a process of it fails.
    """
    start = folder.resumed_from(cfg, Path(cfg.output_dir))
    if cfg.devices * cfg.num_nodes == 1:
        work_from(cfg, start)
        return True
    return processes.start_per_device(cfg, "rdt.training.launch", str(start or ""))


def work(cfg: DictConfig) -> None:
    """Run the config in this process."""
    work_from(cfg, folder.resumed_from(cfg, Path(cfg.output_dir)))


def work_from(cfg: DictConfig, start: Path | None) -> None:
    """Build, train from a checkpoint file, evaluate and record, as one process of a run; rank 0 does the writing.

    The user composed the config, so all that it names may be built.
    """
    silence_libraries()
    out, first = Path(cfg.output_dir), ranks.here().rank == 0
    with (
        stop_on_signals(out),
        explain_out_of_memory(),
        explain_full_disk(out),
        targets.permitted(targets.named_in(cfg)),
    ):
        parts = build(cfg)
        # the launcher holds the lock of a run on one machine
        with lock.held("output_dir", out) if first and cfg.num_nodes > 1 else nullcontext():
            if first:
                folder.begin(cfg, out)
                for line in parts.experiment.notices():
                    print(line, flush=True)
            train_and_record(parts, out, start)


def train_and_record(parts: "RunParts", out: Path, start: Path | None) -> None:
    """Train from a checkpoint file, evaluate, and record; a collective that all ranks must call."""
    cfg, trainer = parts.experiment.cfg, make_trainer(parts, out, start)
    parts.method.folder = out
    trainer.fit(parts.method, parts.data, ckpt_path=start, weights_only=True)
    settle(parts.method.policy)
    cost = record.training_cost(parts.method, trainer.world_size)  # before evaluation adds to it
    evaluations = evaluate(parts, trainer)
    if trainer.is_global_zero:
        folder.keep(cfg, out)
        record.write_record(parts.experiment, parts.curve, evaluations, cost, out)
        conclude(trainer.loggers, cfg, out)


@dataclass(frozen=True)
class RunParts:
    """Holds the parts of a run, all of them built."""

    experiment: Experiment
    method: Method
    data: PromptData
    evaluator: Evaluator  # used after training, on held-out prompts
    small_evaluator: Evaluator  # used while training, on a few training prompts
    curve: dict[str, Guided]  # by label; the first is the run under its own guidance


def build(cfg: DictConfig) -> RunParts:
    """Return the parts of a run, so that what one of them refuses is refused before anything is written."""
    experiment = Experiment(cfg)
    check_rollouts(cfg, experiment.method)
    start_from(cfg, experiment.policy)
    experiment.policy.prepare(experiment.prompts())  # before the network takes the GPU's memory
    return RunParts(
        experiment, experiment.method, experiment.data, experiment.evaluator, experiment.small_evaluator,
        experiment.curve(),
    )  # fmt: skip


def start_from(cfg: DictConfig, policy: Policy) -> None:
    """Load the LoRA that training starts from, if there is one, and keep a snapshot of it; UsageError if it misfits."""
    if cfg.init_lora is None:
        return
    found = weights.locate(cfg.init_lora)
    try:
        policy.load_lora(read_lora(checkpoint.lora_file(found) if found.is_dir() else found, policy.adapter))
    except ValueError as error:
        raise UsageError(f"init_lora={cfg.init_lora}: {error}") from None
    policy.keep(INIT)


def check_rollouts(cfg: DictConfig, method: Method) -> None:
    """Raise UsageError unless the rollouts of an iteration divide evenly over the devices."""
    world, count = cfg.devices * cfg.num_nodes, method.prompts_per_iteration * method.images_per_prompt
    if count % world:
        right = cfg.batch_size * math.lcm(count, world) // count
        raise UsageError(
            f"batch_size={cfg.batch_size} makes {count} rollouts for {world} devices; take batch_size={right}"
        )


def make_trainer(parts: RunParts, out: Path, start: Path | None) -> L.Trainer:
    """Return Lightning's trainer with rdt's ranks, checkpoints, evaluations, loggers and progress."""
    cfg, distributed = parts.experiment.cfg, ranks.here().world > 1
    trained = {name: weight.shape for name, weight in parts.method.named_parameters() if weight.requires_grad}
    return L.Trainer(
        accelerator="auto",
        devices=cfg.devices if distributed or not torch.cuda.is_available() else 1,
        num_nodes=cfg.num_nodes,
        strategy=DDPStrategy(broadcast_buffers=False) if distributed else "auto",
        max_epochs=1,
        plugins=[LaunchedEnvironment(), CheckpointReader(trained)],
        logger=loggers(cfg, out, kept_rows(out, start)),
        callbacks=make_callbacks(parts, out),
        log_every_n_steps=cfg.trainer.log_every,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        default_root_dir=out,
    )


def make_callbacks(parts: RunParts, out: Path) -> list[L.Callback]:
    """Return the callbacks in the order in which they run: the average first, then evaluations, which constraints read.

    Checkpoints come last.
    """
    cfg, own = parts.experiment.cfg, next(iter(parts.curve.values()))
    constraints = constraints_of(OmegaConf.to_container(cfg.constraint))
    evaluations = SmallEvaluations(parts.small_evaluator, own.denoiser, cfg.evaluation.every)
    judge = compared_judge(cfg) or ""
    watch = [ConstraintWatch(constraints, evaluations, cfg.reward.name, judge)] if constraints else []
    average = [Averaging(**cfg.trainer.ema)] if cfg.trainer.ema.decay else []
    samples = TrainingSamples(parts.evaluator.protocol, own.denoiser, cfg.trainer.sample_every, out)
    return [
        *average,
        evaluations,
        *watch,
        samples,
        Checkpoints(cfg, out),
        TrainingProgress(evaluations, cfg.reward.name),
    ]


def evaluate(parts: RunParts, trainer: L.Trainer) -> dict[str, Evaluation]:
    """Return the evaluations of the base and of every point of the curve, by label, on the same prompts and noise.

    Every rank evaluates its share of the prompts and returns the values of all of them.
    """
    method, experiment = parts.method, parts.experiment
    method.to(trainer.strategy.root_device)  # Lightning moves it to the host when training ends
    denoisers = {"base": experiment.base} | {label: point.denoiser for label, point in parts.curve.items()}
    evaluator, rank, world = parts.evaluator.to(method.device), trainer.global_rank, trainer.world_size
    with evaluating(evaluator, len(denoisers), rank, world):
        return evaluator.run(method.policy, denoisers, experiment.base, experiment.sampling, rank, world)


def main() -> int:
    """Run one process of a run; return exit status 0, which it gets only if everything was written."""
    config, launcher, start = sys.argv[1:]
    processes.take_place(int(launcher))
    with processes.reporting():
        work_from(OmegaConf.load(config), Path(start) if start else None)
        if dist.is_initialized():
            dist.destroy_process_group()  # its threads would abort the interpreter's exit
    return 0


if __name__ == "__main__":
    sys.exit(main())
