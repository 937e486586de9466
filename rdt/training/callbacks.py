"""Lightning callbacks of a run: checkpoints that count iterations, and evaluation during training."""

import shutil
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig

from rdt import files
from rdt.errors import Terminated, UsageError
from rdt.evaluation import Evaluator
from rdt.methods.base import Diverged, Method
from rdt.policy import Denoiser
from rdt.stream import Batch
from rdt.training import digests, folder
from rdt.training.abort import SIGNALS
from rdt.training.average import evaluated
from rdt.training.loggers import Metrics


class Checkpoints(L.Callback):
    """Saves `checkpoints/<iteration>/` every so many iterations, at the end, and on a signal or Ctrl-C.

    Training ends after the last iteration, or after the first at which `max_passes` network passes are spent.
    Lightning logs an iteration's metrics only after the hook that saves its checkpoint. The checkpoint is therefore
    written under a `.partial` name and renamed once those metrics are on disk, with a copy of them and its digests.
    """

    def __init__(self, cfg: DictConfig, out: Path) -> None:
        self.cfg, self.out = cfg, out
        self.every, self.max_passes = cfg.trainer.checkpoint_every, cfg.max_passes
        self.keep = cfg.trainer.keep  # newest checkpoints that stay; None: all
        self.partial: Path | None = None  # the checkpoint that waits for its metrics
        self.signal = ""  # the name of the signal that this rank received
        self.stopping = False  # some rank received a signal; the same on all ranks

    def on_train_start(self, trainer: L.Trainer, method: L.LightningModule) -> None:
        """Drop the logged rows of iterations that run again, and catch signals; Lightning restores their handlers.

        UsageError if the ranks continue from different checkpoints.
        """
        if trainer.strategy.broadcast(method.iteration) != method.iteration:
            raise UsageError(f"output_dir={self.out} is not the same folder on all machines; take a shared one")
        for logger in trainer.loggers:
            if isinstance(logger, Metrics):
                logger.drop_from(method.iteration)
        trainer.should_stop = self.is_over(trainer, method)
        if threading.current_thread() is threading.main_thread():
            for number in (*SIGNALS, signal.SIGINT):
                signal.signal(number, self.receive)

    def receive(self, number: int, _: Any) -> None:
        """Note the signal; the run stops at the end of the iteration."""
        self.signal = signal.Signals(number).name

    def on_train_batch_end(
        self, trainer: L.Trainer, method: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Save if this iteration is due, is the last one, or asks for it."""
        method.iteration = batch.iteration + 1  # everything saved from here on counts this iteration as done
        self.stopping = trainer.strategy.reduce_boolean_decision(bool(self.signal), all=False)
        trainer.should_stop = self.is_over(trainer, method)
        last = trainer.should_stop or method.iteration == len(trainer.datamodule.stream)
        if self.stopping or last or method.urgent or method.iteration % self.every == 0:
            self.save(trainer, method)

    def on_train_batch_start(self, trainer: L.Trainer, method: L.LightningModule, batch: Batch, batch_idx: int) -> None:
        self.complete(trainer)

    def on_train_end(self, trainer: L.Trainer, method: L.LightningModule) -> None:
        self.complete(trainer)

    def is_over(self, trainer: L.Trainer, method: Method) -> bool:
        """Return whether the method ended training or `max_passes` are spent; the same on all ranks."""
        passes = trainer.world_size * (method.policy.passes + method.policy.backward_passes)
        over = bool(method.ended) or (self.max_passes is not None and passes >= self.max_passes)
        return trainer.strategy.reduce_boolean_decision(over, all=False)

    def save(self, trainer: L.Trainer, method: Method) -> None:
        """Write the checkpoint under its `.partial` name; a collective that all ranks must call."""
        self.partial = self.out / "checkpoints" / f"{method.iteration:06d}.partial"
        if trainer.is_global_zero:
            folder.keep(self.cfg, self.out)
            self.partial.mkdir(parents=True, exist_ok=True)
        try:
            trainer.save_checkpoint(self.partial / digests.STATE, weights_only=False)
        except BaseException:
            shutil.rmtree(self.partial, ignore_errors=True)  # of a full disk
            raise

    def complete(self, trainer: L.Trainer) -> None:
        """Write the metrics, then give the waiting checkpoint its name; Terminated if the run was stopped."""
        if self.partial is None:
            return
        final, partial, self.partial = self.partial.with_suffix(""), self.partial, None
        for logger in trainer.loggers:
            logger.save()
        if trainer.is_global_zero:
            self.seal(partial, int(final.name))
            files.replace(partial, final)
            for old in folder.checkpoints(self.out)[: -self.keep] if self.keep else ():
                files.remove(old)
        trainer.strategy.barrier()
        if self.stopping:
            raise Terminated(
                f"stopped by {self.signal or 'a signal'} after iteration {int(final.name)}; saved {final};"
                f" start again with output_dir={self.out} to continue"
            )

    def seal(self, partial: Path, iteration: int) -> None:
        """Copy the metrics into a checkpoint, and write its digests."""
        metrics = self.out / digests.METRICS
        if metrics.is_file():
            shutil.copyfile(metrics, partial / digests.METRICS)
        digests.seal(partial, iteration, digests.identity(self.cfg))

    def on_save_checkpoint(self, trainer: L.Trainer, method: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Mark the batch as not the last one, so that a run with more iterations can continue from here."""
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False

    def on_exception(self, trainer: L.Trainer, method: L.LightningModule, exception: BaseException) -> None:
        """Name the newest checkpoint in the message of a run that diverged."""
        if isinstance(exception, Diverged):
            good = folder.newest_checkpoint(self.out) or "none"
            exception.args = (f"{exception.args[0]}; last good checkpoint: {good}",)


class SmallEvaluations(L.Callback):
    """Runs a small evaluation every `every` iterations, 0 for never, and logs its means as `eval/*`.

    The base is evaluated once, at the same noise; `eval/gain/*` is how far rewards and diversity are from its own.
    """

    def __init__(self, evaluator: Evaluator, guided: Denoiser, every: int) -> None:
        self.evaluator, self.guided, self.every = evaluator, guided, every
        self.scores: dict[str, float] = {}  # means of the tuned policy by full name, such as "diversity/vendi"
        self.latest: dict[str, float] = {}  # the same by short name, such as "vendi"
        self.base: dict[str, float] = {}  # means of the base, by short name
        self.at = -1  # the iteration of the newest evaluation

    def on_train_batch_end(
        self, trainer: L.Trainer, method: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Evaluate and log if this iteration is due."""
        if self.every and (batch.iteration + 1) % self.every == 0:
            self.evaluate(trainer, method)
            self.at = batch.iteration
            for logger in trainer.loggers:
                logger.log_metrics({f"eval/{name}": value for name, value in self.logged().items()}, step=self.at)

    def logged(self) -> dict[str, float]:
        """Return the newest means and, of rewards and diversity, their differences to the base's."""
        names = [name.rpartition("/")[2] for name in self.scores if name.startswith(("reward/", "diversity/"))]
        return self.latest | {f"gain/{name}": self.latest[name] - self.base[name] for name in names}

    def evaluate(self, trainer: L.Trainer, method: Method) -> None:
        """Evaluate the tuned policy, and the base if it was not evaluated yet."""
        passes = method.policy.passes  # restored below, since evaluation is not training compute
        base = method.guided(method.policy.base)
        views = {"tuned": self.guided} | ({} if self.base else {"base": base})
        with method.policy.standing_in(evaluated(method.policy)):
            done = self.evaluator.to(method.device).run(
                method.policy, views, base, method.sampling, trainer.global_rank, trainer.world_size
            )
        method.policy.passes = passes
        self.scores = done["tuned"].summary()
        self.latest = by_short_name(self.scores)
        if "base" in done:
            self.base = by_short_name(done["base"].summary())


def headline(scores: Mapping[str, float], reward: str) -> dict[str, float]:
    """Return the first reward that is not trained on and the first measure of diversity, if they were evaluated."""
    judges = [name for name in scores if name.startswith("reward/") and name != f"reward/{reward}"]
    diversities = [name for name in scores if name.startswith("diversity/")]
    return {name: scores[name] for name in (*judges[:1], *diversities[:1])}


def by_short_name(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics without the kind in front of their names: "diversity/vendi" becomes "vendi"."""
    return {name.rpartition("/")[2]: value for name, value in metrics.items()}
