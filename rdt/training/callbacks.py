"""Lightning callbacks: checkpoints that count iterations, evaluation during training, the progress display.

Sentinels: what over-optimisation shows first, watched while training against stated budgets.

`adapt` is dual ascent on the KL coefficient, in its logarithm, so that it stays positive:
    log kl_coef += rate * overdrawn, where overdrawn is by what share of its bound a quantity is beyond it, within +-1.
"""

import math
import shutil
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor

from rdt.errors import Terminated
from rdt.evaluation import Evaluator
from rdt.methods.base import Diverged, Method
from rdt.policy import Denoiser
from rdt.stream import Batch
from rdt.training import folder
from rdt.training.constraints import Budget
from rdt.training.loggers import Metrics


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


Values = Mapping[str, float]


class Sentinels(L.Callback):
    """Looks at each quantity when it is new; decisions are made on what all ranks know, so all make the same."""

    def __init__(self, watched: list[Budget], evaluations: EvaluateEvery, reward: str, judge: str) -> None:
        self.budgets, self.evaluations = watched, evaluations
        self.reward, self.judge = reward, judge
        self.returns = any(budget.action == "rollback" for budget in watched)
        self.seen: dict[str, float] = {}  # the newest value of each
        self.good: dict[str, Any] = {}  # iteration and adapter of the last look at which every budget held
        self.kl_coef: float | None = None  # where it was adapted

    def on_train_start(self, trainer: L.Trainer, method: L.LightningModule) -> None:
        """A continued run goes on with the coefficient it had come to."""
        if self.kl_coef is not None:
            method.kl_coef = self.kl_coef

    def on_train_batch_end(
        self, trainer: L.Trainer, method: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the small evaluation of this iteration, before its checkpoint."""
        new = self.news(trainer.callback_metrics, batch.iteration)
        self.seen |= new
        beyond = [b for b in self.budgets if b.name in self.seen and b.overdrawn(self.seen[b.name]) > 0]
        for budget in self.budgets:
            if budget.name in new and (budget in beyond or budget.action == "adapt"):
                ACTIONS[budget.action](self, budget, method)
        if self.returns and new and not beyond and len(self.seen) == len(self.budgets):
            adapter = {name: weight.detach().clone() for name, weight in method.policy.lora().items()}
            self.good = {"iteration": batch.iteration + 1, "adapter": adapter}

    def news(self, metrics: Mapping[str, Tensor], iteration: int) -> dict[str, float]:
        """What this iteration tells of the watched quantities."""
        told = {"kl": float(metrics["train/kl_nats"])} if "train/kl_nats" in metrics else {}
        if self.evaluations.at == iteration:
            told |= drifts(self.evaluations.latest, self.evaluations.base, self.reward, self.judge)
            for budget in self.budgets:
                if budget.name not in ("kl", *told):
                    raise ValueError(f"{budget}: nothing measures {budget.name} here; there is {', '.join(told)}")
        return {budget.name: told[budget.name] for budget in self.budgets if budget.name in told}

    def warn(self, budget: Budget, method: Method, then: str = "") -> None:
        """One line."""
        if method.global_rank == 0:
            value = self.seen[budget.name]
            print(f"{budget} is not met: {value:.4g} after iteration {method.iteration + 1}{then}", flush=True)

    def stop(self, budget: Budget, method: Method) -> None:
        """The run ends here, is evaluated and recorded."""
        self.warn(budget, method, "; training ends")
        method.ended = str(budget)

    def rollback(self, budget: Budget, method: Method) -> None:
        """The run ends with the adapter that met every budget; with the base's where none did."""
        at = self.good.get("iteration", 0)
        self.warn(budget, method, f"; training ends with the adapter of iteration {at}")
        blank = {name: weight * (".lora_A." in name) for name, weight in method.policy.lora().items()}
        method.policy.load_lora(self.good.get("adapter", blank))
        method.ended = str(budget)

    def adapt(self, budget: Budget, method: Method) -> None:
        """A step of dual ascent; of descent where the budget is not used up."""
        method.kl_coef *= math.exp(budget.rate * budget.overdrawn(self.seen[budget.name]))
        self.kl_coef = method.kl_coef
        method.log_train(kl_coef=method.kl_coef)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "good": self.good, "kl_coef": self.kl_coef}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen, self.good, self.kl_coef = state_dict["seen"], state_dict["good"], state_dict["kl_coef"]


ACTIONS: dict[str, Callable[[Sentinels, Budget, Method], None]] = {
    "warn": Sentinels.warn, "stop": Sentinels.stop, "rollback": Sentinels.rollback, "adapt": Sentinels.adapt,
}  # fmt: skip


def drifts(now: Values, base: Values, reward: str, judge: str) -> dict[str, float]:
    """What a small evaluation says beside the base's; a reward that has no such judge has no gap."""
    told = dict(now)
    told["brightness"] = abs(now["brightness"] - base["brightness"])
    told["latent_norm"] = abs(now["latent_rms"] / base["latent_rms"] - 1)
    if reward in now and judge in now:
        told["gap"] = (now[reward] - base[reward]) - (now[judge] - base[judge])
    return told
