"""Starts the processes of a run: in this process for one device, one process per device through torch's elastic agent.

The config is resolved once and handed over as a file: Lightning's own launcher would run a sweep again on every rank,
with other hyper-parameters.

`python -m rdt.training.launch resolved.yaml`: one process of a run; `rdt.training.launch` starts one per device.

How a run ends before it is done: told to stop, or out of memory, in one line about what to do.
"""

import json
import logging
import math
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import lightning as L
import torch
import transformers
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf

from rdt.errors import Terminated, UsageError, one_line
from rdt.prompts import notices
from rdt.training import folder, record
from rdt.training.callbacks import Checkpoints, EvaluateEvery, Progress, Sentinels
from rdt.training.constraints import budgets
from rdt.training.experiment import Experiment
from rdt.training.loggers import loggers


@contextmanager
def stoppable(out: Path) -> Iterator[None]:
    """SIGTERM outside the training loop, which has a handler of its own, ends the run with a line."""

    def stop(*_: Any) -> None:
        saved = folder.checkpoints(out)
        raise Terminated(f"stopped by SIGTERM; newest checkpoint: {saved[-1] if saved else 'none'}")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def roomy() -> Iterator[None]:
    """Memory that ran out is one line about what saves some."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        lacking = isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
        if not lacking:
            raise
        raise UsageError(
            f"not enough memory: {str(error).splitlines()[0][:160]}; lower micro_batch_size or"
            " evaluation.batch_size, or set precision=bf16, model.policy.checkpointing=true or"
            " model.policy.setup.slicing=true"
        ) from None


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
        logger=loggers(cfg, out),
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


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def launch(cfg: DictConfig) -> None:
    """Run the worker on the resolved config; UsageError with its reason where one fails."""
    if cfg.devices * cfg.num_nodes == 1 or "LOCAL_RANK" in os.environ:
        work(cfg)
        return
    with tempfile.TemporaryDirectory(prefix="rdt-") as scratch:
        file = Path(scratch) / "config.yaml"
        OmegaConf.save(cfg, file, resolve=True)
        _distributed(cfg, file)


def _distributed(cfg: DictConfig, file: Path) -> None:
    """One process per device; what the first that fails has to say is what the run says."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # its account of a failure is fifty lines long
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // cfg.devices)))
    nodes, where = cfg.num_nodes, _rendezvous(cfg)
    config = LaunchConfig(min_nodes=nodes, max_nodes=nodes, nproc_per_node=cfg.devices, max_restarts=0, **where)
    try:
        with _own_handlers():
            elastic_launch(config, sys.executable)("-m", "rdt.training.launch", str(file))
    except ChildFailedError as error:
        raise UsageError(f"devices={cfg.devices}: {_told(error.get_first_failure()[1])}") from None
    except SignalException as error:
        saved = folder.checkpoints(Path(cfg.output_dir))
        latest = f"newest checkpoint: {saved[-1] if saved else 'none'}"
        raise Terminated(f"stopped by {error.sigval.name}; {latest}; output_dir={cfg.output_dir} goes on") from None


def _told(failure: Any) -> str:
    """What a worker left for its launcher to say."""
    told = failure.error_file_data["message"]
    return told["message"] if isinstance(told, dict) else f"exit status {failure.exitcode} of a process, see above"


@contextmanager
def _own_handlers() -> Iterator[None]:
    """The agent installs signal handlers of its own and leaves them behind."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _rendezvous(cfg: DictConfig) -> dict[str, Any]:
    """One machine finds its own port; several agree through the addresses of the scheduler's environment."""
    if cfg.num_nodes == 1:
        where = {"rdzv_endpoint": "localhost:0", "local_addr": "localhost", "run_id": uuid.uuid4().hex}
    else:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT', 29500)}"
        where = {"rdzv_endpoint": address, "run_id": os.environ.get("SLURM_JOB_ID", "rdt")}
    return {"rdzv_backend": "c10d"} | where


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
