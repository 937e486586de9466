"""Lightning callbacks: checkpoints that count iterations, evaluation during training, the progress display."""

import shutil
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

from rdt.evaluation import Evaluator
from rdt.methods.base import Diverged, Method
from rdt.policy import Denoiser
from rdt.prompts import Batch


class Terminated(InterruptedError):
    """The run was told to stop before it was done."""


class Checkpoints(L.Callback):
    """Saves `checkpoints/<iteration>/` every so often and at the end; whole or not at all, the last two are kept."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every

    def on_train_batch_end(
        self, trainer: L.Trainer, method: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        method.iteration = batch.iteration + 1  # this one is done; all that is saved from here on says so
        if method.iteration % self.every == 0 or method.iteration == len(trainer.datamodule.stream):
            self.save(trainer, method)

    def save(self, trainer: L.Trainer, method: Method) -> None:
        """A collective; the folder appears under its name when it is complete."""
        final = self.folder / f"{method.iteration:06d}"
        partial = final.with_suffix(".partial")
        partial.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(partial / "run.ckpt", weights_only=False)
        if trainer.is_global_zero:
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            for old in complete(self.folder)[:-2]:
                shutil.rmtree(old)
        trainer.strategy.barrier()

    def on_exception(self, trainer: L.Trainer, method: L.LightningModule, exception: BaseException) -> None:
        """A diverged run says where its last good checkpoint is; a stopped one (SIGTERM, Ctrl-C) saves before it goes."""
        if isinstance(exception, Diverged):
            good = complete(self.folder)
            exception.args = (f"{exception.args[0]}; last good checkpoint: {good[-1] if good else 'none'}",)


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if path.name.isdigit())


class EvaluateEvery(L.Callback):
    """Runs a small evaluation every so many iterations and logs it as `eval/*`."""

    def __init__(self, evaluator: Evaluator, guided: Denoiser, every: int) -> None:
        self.evaluator, self.guided, self.every = evaluator, guided, every
        self.latest: dict[str, float] = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, method: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not self.every or (batch.iteration + 1) % self.every:
            return
        base = method.guided(method.policy.base)
        passes = method.policy.passes
        done = self.evaluator.to(method.device).run(
            method.policy, self.guided, base, method.sampling, trainer.global_rank, trainer.world_size
        )
        method.policy.passes = passes  # evaluation is not training compute
        self.latest = {f"eval/{name.split('/')[-1]}": value for name, value in done.summary().items()}
        for logger in trainer.loggers:
            logger.log_metrics(self.latest, step=batch.iteration)


class Progress(RichProgressBar):
    """Rich's bar with the numbers a user watches: reward, diversity, KL."""

    def __init__(self, evaluations: EvaluateEvery) -> None:
        super().__init__()
        self.evaluations = evaluations

    def get_metrics(self, trainer: L.Trainer, method: L.LightningModule) -> dict[str, Any]:
        """Short names, three digits."""
        metrics = super().get_metrics(trainer, method) | {
            name: value for name, value in self.evaluations.latest.items() if name in ("eval/entropy", "eval/gold")
        }
        metrics.pop("v_num", None)
        return {name.split("/")[-1]: f"{float(value):.3g}" for name, value in metrics.items()}
