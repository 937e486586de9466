"""`python -m rdt.worker resolved.yaml`: one process of a run; `rdt.launch` starts one per device."""

import json
import logging
import math
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

from rdt import folder, record, tracking
from rdt.budgets import budgets
from rdt.callbacks import Checkpoints, EvaluateEvery, Progress
from rdt.endings import roomy, stoppable
from rdt.errors import UsageError, one_line
from rdt.experiment import Experiment
from rdt.prompt_sets import notices
from rdt.sentinels import Sentinels

PATIENCE = 3.0  # seconds in which the launcher ends a process whose peer failed


def work(cfg: DictConfig) -> None:
    """Train, evaluate base and tuned with paired noise, write everything of the contract, rank 0 doing the writing."""
    quiet()
    out = Path(cfg.output_dir)
    with stoppable(out), roomy():
        experiment = built(cfg)
        if int(os.environ.get("RANK", 0)) == 0:
            folder.begin(cfg, out)
            for line in notices(experiment.prompt_counts):
                print(line, flush=True)
        trainer = make_trainer(experiment, out)
        trainer.fit(experiment.method, experiment.data, ckpt_path=folder.resumed_from(cfg, out), weights_only=True)
        record.write(experiment, trainer, out)


def built(cfg: DictConfig) -> Experiment:
    """The experiment with all its parts made: what they refuse is refused before anything is written."""
    experiment = Experiment(cfg)
    method, world = experiment.method, cfg.devices * cfg.num_nodes
    count = method.prompts_per_iteration * method.images_per_prompt
    if count % world:
        right = f"take batch_size={cfg.batch_size * math.lcm(count, world) // count}"
        raise UsageError(f"batch_size={cfg.batch_size} makes {count} rollouts for {world} devices; {right}")
    experiment.policy.prepare(experiment.prompts())  # before the network takes the GPU's memory
    _ = (experiment.data, experiment.evaluator, experiment.small_evaluator, experiment.guided())
    return experiment


def quiet() -> None:
    """Silence what libraries say about themselves; what is wrong they raise as well."""
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    diffusers.logging.set_verbosity(logging.CRITICAL)
    diffusers.logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("lightning", "peft", "diffusers", "transformers", "torchmetrics"):
        warnings.filterwarnings("ignore", module=module)


def make_trainer(experiment: Experiment, out: Path) -> L.Trainer:
    """Lightning's trainer with our own checkpoints, evaluation and display."""
    cfg = experiment.cfg
    watched = budgets(OmegaConf.to_container(cfg.constraint))
    evaluations = EvaluateEvery(experiment.small_evaluator, experiment.guided(), cfg.evaluation.every, bool(watched))
    sentinels = [Sentinels(watched, evaluations, cfg.reward.name, cfg.constraint.judge)] if watched else []
    distributed = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return L.Trainer(
        accelerator="auto",
        devices=cfg.devices if distributed or not torch.cuda.is_available() else 1,
        num_nodes=cfg.num_nodes,
        strategy=DDPStrategy(broadcast_buffers=False) if distributed else "auto",
        max_epochs=1,
        logger=tracking.loggers(cfg, out),
        callbacks=[
            evaluations,
            *sentinels,
            Checkpoints(out, cfg.trainer.checkpoint_every, cfg.max_passes),
            Progress(evaluations),
        ],
        log_every_n_steps=cfg.trainer.log_every,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=out,
    )


def main() -> int:
    """Exit status 0 only if everything was written."""
    try:
        with one_line(_tell):
            work(OmegaConf.load(sys.argv[1]))
    except Exception:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(PATIENCE)  # a process that only lost its peer is ended here, and the peer's reason is the one shown
        raise
    return 0


def _tell(line: str) -> None:
    """Hand the reason to the launcher, which says it once for all processes."""
    reason = {"message": line, "extraInfo": {"timestamp": int(time.time())}}
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps({"message": reason}), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
