"""`python -m rdt.worker resolved.yaml`: one process of a run: fit, evaluate, record. Started by `rdt.launch`, once per device."""

import logging
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import diffusers
import lightning as L
import torch
import transformers
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf

from rdt import record, tracking
from rdt.callbacks import Checkpoints, EvaluateEvery, Progress, Terminated, complete
from rdt.experiment import Experiment


def work(cfg: DictConfig) -> None:
    """Train, evaluate base and tuned with paired noise, write everything of the contract, rank 0 doing the writing."""
    quiet()
    started = time.time()
    out = Path(cfg.output_dir)
    experiment = Experiment(cfg)
    trainer = make_trainer(experiment, out)
    trainer.fit(experiment.method, experiment.data, ckpt_path=_resume(cfg, out))
    if experiment.method.iteration < cfg.iterations:
        raise Terminated(f"stopped at iteration {experiment.method.iteration} of {cfg.iterations}; run again to continue")
    record.write(experiment, trainer, out, started)


def quiet() -> None:
    """Silence what libraries say about themselves; errors still come through."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("lightning", "peft", "diffusers", "transformers", "torchmetrics"):
        warnings.filterwarnings("ignore", module=module)


def make_trainer(experiment: Experiment, out: Path) -> L.Trainer:
    """Lightning's trainer with our own checkpoints, evaluation and display."""
    cfg = experiment.cfg
    evaluations = EvaluateEvery(experiment.small_evaluator, experiment.guided(), cfg.evaluation.every)
    distributed = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return L.Trainer(
        accelerator="auto",
        devices=cfg.devices if distributed or not torch.cuda.is_available() else 1,
        num_nodes=cfg.num_nodes,
        strategy=DDPStrategy(gradient_as_bucket_view=True, broadcast_buffers=False) if distributed else "auto",
        precision={"fp32": "32-true", "bf16": "bf16-mixed"}[cfg.precision],
        max_epochs=1,
        logger=tracking.loggers(cfg, out),
        callbacks=[
            evaluations,
            Checkpoints(out / "checkpoints", cfg.trainer.checkpoint_every),
            Progress(evaluations),
        ],
        log_every_n_steps=cfg.trainer.log_every,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=out,
    )


def _resume(cfg: DictConfig, out: Path) -> Path | None:
    """The checkpoint to continue from: the newest complete one of this output folder, or the one that was named."""
    if cfg.resume == "never":
        return None
    folders = complete(out / "checkpoints") if cfg.resume == "auto" else [Path(cfg.resume)]
    return folders[-1] / "run.ckpt" if folders else None


def main() -> int:
    """Exit status 0 only if everything was written."""
    from rdt.errors import one_line

    signal.signal(signal.SIGINT, signal.default_int_handler)
    with one_line():
        work(OmegaConf.load(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
