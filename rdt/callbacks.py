"""Lightning callbacks: checkpoints that count iterations, evaluation during training, the progress display."""

import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

from rdt import folder
from rdt.errors import Terminated
from rdt.evaluation import Evaluator
from rdt.methods.base import Diverged, Method
from rdt.policy import Denoiser
from rdt.prompts import Batch
from rdt.tracking import Metrics


class Checkpoints(L.Callback):
    """Saves `checkpoints/<iteration>/` every so often, at the end and on SIGTERM or Ctrl-C; the last two are kept.

    The end is the last iteration, or the first after which `max_passes` network passes are spent.
    A checkpoint gets its name once its iteration's metrics are on disk, which Lightning logs after the batch has ended.
    """

    def __init__(self, out: Path, every: int, max_passes: int | None) -> None:
        self.out, self.every, self.max_passes = out, every, max_passes
        self.unnamed: Path | None = None
        self.signal = ""  # the one that was received
        self.stopping = False  # all ranks agree to

    def on_train_start(self, trainer: L.Trainer, method: L.LightningModule) -> None:
        """Rows of iterations that run again are dropped. Lightning puts the signal handlers back when it is done."""
        for logger in trainer.loggers:
            if isinstance(logger, Metrics):
                logger.forget(method.iteration)
        trainer.should_stop = self.spent(trainer, method)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self.receive)

    def receive(self, number: int, _: Any) -> None:
        """A signal is answered when the iteration is done."""
        self.signal = signal.Signals(number).name

    def on_train_batch_end(
        self, trainer: L.Trainer, method: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        method.iteration = batch.iteration + 1  # this one is done; all that is saved from here on says so
        self.stopping = trainer.strategy.reduce_boolean_decision(bool(self.signal), all=False)
        trainer.should_stop = self.spent(trainer, method)
        last = trainer.should_stop or method.iteration == len(trainer.datamodule.stream)
        if self.stopping or last or method.urgent or method.iteration % self.every == 0:
            self.save(trainer, method)

    def on_train_batch_start(self, trainer: L.Trainer, method: L.LightningModule, batch: Batch, batch_idx: int) -> None:
        self.settle(trainer)

    def on_train_end(self, trainer: L.Trainer, method: L.LightningModule) -> None:
        self.settle(trainer)

    def spent(self, trainer: L.Trainer, method: Method) -> bool:
        """Whether training has cost what it may, or was ended; all ranks agree."""
        passes = trainer.world_size * (method.policy.passes + method.policy.backward_passes)
        over = bool(method.ended) or (self.max_passes is not None and passes >= self.max_passes)
        return trainer.strategy.reduce_boolean_decision(over, all=False)

    def save(self, trainer: L.Trainer, method: Method) -> None:
        """A collective."""
        self.unnamed = self.out / "checkpoints" / f"{method.iteration:06d}.partial"
        self.unnamed.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(self.unnamed / "run.ckpt", weights_only=False)

    def settle(self, trainer: L.Trainer) -> None:
        """Name what was saved, now that its metrics are written; Terminated where the run was told to stop."""
        if self.unnamed is None:
            return
        final, partial, self.unnamed = self.unnamed.with_suffix(""), self.unnamed, None
        for logger in trainer.loggers:
            logger.save()
        if trainer.is_global_zero:
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            for old in folder.checkpoints(self.out)[:-2]:
                shutil.rmtree(old)
        trainer.strategy.barrier()
        if self.stopping:
            raise Terminated(
                f"stopped by {self.signal or 'a signal'} after iteration {int(final.name)};"
                f" saved {final}; output_dir={self.out} goes on from there"
            )

    def on_save_checkpoint(self, trainer: L.Trainer, method: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """The last batch of this run need not be the last of one that continues it with more iterations."""
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False

    def on_exception(self, trainer: L.Trainer, method: L.LightningModule, exception: BaseException) -> None:
        """A diverged run says where its last good checkpoint is."""
        if isinstance(exception, Diverged):
            good = folder.checkpoints(self.out)
            exception.args = (f"{exception.args[0]}; last good checkpoint: {good[-1] if good else 'none'}",)


class EvaluateEvery(L.Callback):
    """Runs a small evaluation every so many iterations and logs it as `eval/*`; of the base once, where it is asked."""

    def __init__(self, evaluator: Evaluator, guided: Denoiser, every: int, beside_base: bool) -> None:
        self.evaluator, self.guided, self.every, self.beside_base = evaluator, guided, every, beside_base
        self.latest: dict[str, float] = {}  # of the tuned policy, by short name, at iteration `at`
        self.base: dict[str, float] = {}
        self.at = -1

    def on_train_batch_end(
        self, trainer: L.Trainer, method: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not self.every or (batch.iteration + 1) % self.every:
            return
        passes = method.policy.passes  # evaluation is not training compute
        base = method.guided(method.policy.base)
        views = {"tuned": self.guided} | ({"base": base} if self.beside_base and not self.base else {})
        done = self.evaluator.to(method.device).run(
            method.policy, views, base, method.sampling, trainer.global_rank, trainer.world_size
        )
        method.policy.passes = passes
        short = {
            view: {name.split("/")[-1]: value for name, value in one.summary().items()} for view, one in done.items()
        }
        self.latest, self.base, self.at = short["tuned"], short.get("base", self.base), batch.iteration
        for logger in trainer.loggers:
            logger.log_metrics({f"eval/{name}": value for name, value in self.latest.items()}, step=batch.iteration)


class Progress(RichProgressBar):
    """Rich's bar with the numbers a user watches: reward, diversity, KL."""

    def __init__(self, evaluations: EvaluateEvery) -> None:
        super().__init__()
        self.evaluations = evaluations

    def get_metrics(self, trainer: L.Trainer, method: L.LightningModule) -> dict[str, Any]:
        """Short names, three digits."""
        metrics = super().get_metrics(trainer, method) | {
            name: value for name, value in self.evaluations.latest.items() if name in ("entropy", "gold")
        }
        metrics.pop("v_num", None)
        return {name.split("/")[-1]: f"{float(value):.3g}" for name, value in metrics.items()}
