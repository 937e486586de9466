"""Says how far a run is: one line that is rewritten in a terminal, and plain lines elsewhere, at least one a minute.

iteration 16 of 110, 0:18 so far, 1:12 left: hps 0.165, kl 148
evaluation 12 of 48, 0:31 so far, 1:33 left
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
from rich.console import Console
from rich.live import Live
from rich.text import Text

from rdt.evaluation import Evaluator
from rdt.training.callbacks import SmallEvaluations, by_short_name, headline

QUIET = 50.0  # seconds after which a plain line is printed, whether or not anything was done meanwhile


class ProgressLine:
    """Counts the steps of one phase and shows them; used as a context."""

    def __init__(self, phase: str, total: int, quiet: float = QUIET) -> None:
        self.phase, self.total, self.quiet = phase, total, quiet
        self.done, self.begun, self.words, self.shown = 0, 0, "", time.monotonic()
        self.start = time.monotonic()
        self.ended = threading.Event()
        self.live = Live(console=Console(), auto_refresh=False, transient=True) if sys.stdout.isatty() else None

    def __enter__(self) -> "ProgressLine":
        if self.live is not None:
            self.live.start()
        self.show()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        if self.live is not None:
            self.live.stop()
        print(self.line(), flush=True)

    def advance(self, done: int, words: str = "") -> None:
        """Note how many steps are done and what was measured."""
        self.done, self.words = done, words or self.words
        if self.live is not None or time.monotonic() - self.shown > self.quiet:
            self.show()

    def begin_at(self, done: int) -> None:
        """Leave out steps that an earlier start of the run made, of which the time is not known."""
        self.begun = self.done = done

    def show(self) -> None:
        """Rewrite the line, or print it if this is no terminal."""
        self.shown = time.monotonic()
        if self.live is not None:
            self.live.update(Text(self.line(), no_wrap=True, overflow="ellipsis"), refresh=True)
        else:
            print(self.line(), flush=True)

    def line(self) -> str:
        """Return how much is done, how long that took, and how long the rest will take."""
        spent, made = time.monotonic() - self.start, self.done - self.begun
        left = f", {clock(spent / made * (self.total - self.done))} left" if made > 0 and self.done < self.total else ""
        words = f": {self.words}" if self.words else ""
        return f"{self.phase} {self.done} of {self.total}, {clock(spent)} so far{left}{words}"

    def _beat(self) -> None:
        """Show the line again while a long step lasts."""
        while not self.ended.wait(min(self.quiet, 5.0)):
            if time.monotonic() - self.shown > self.quiet:
                self.show()


def clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds, such as "1:01:40", or minutes and seconds, such as "0:18"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


@contextmanager
def evaluating(evaluator: Evaluator, models: int, rank: int, world: int) -> Iterator[None]:
    """Show on rank 0 how many prompts have been scored, each once for every model that is evaluated."""
    reward = next(iter(evaluator.rewards.values()), None)
    if rank or reward is None:
        yield
        return
    total = models * (len(evaluator.protocol.prompts) // world)
    with ProgressLine("evaluation", total) as shown:
        hook = reward.register_forward_hook(_counted(lambda done: shown.advance(min(done, total))))
        try:
            yield
        finally:
            hook.remove()


def _counted(tell: Callable[[int], None]) -> Callable[..., None]:
    """Return a hook that tells how often it was called."""
    done = 0

    def hook(*_: Any) -> None:
        nonlocal done
        done += 1
        tell(done)

    return hook


class TrainingProgress(L.Callback):
    """Shows the iterations with the training metrics and the headline scores of the newest small evaluation."""

    def __init__(self, evaluations: SmallEvaluations, reward: str) -> None:
        self.evaluations, self.reward = evaluations, reward
        self.shown: ProgressLine | None = None

    def on_train_start(self, trainer: L.Trainer, method: L.LightningModule) -> None:
        """Begin the line on rank 0, after the iterations that a resumed run has behind it."""
        if trainer.is_global_zero:
            self.shown = ProgressLine("iteration", len(trainer.datamodule.stream))
            self.shown.begin_at(method.iteration)
            self.shown.__enter__()

    def on_train_batch_end(
        self, trainer: L.Trainer, method: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.shown is not None:
            self.shown.advance(batch.iteration + 1, self._words(trainer.progress_bar_metrics))

    def on_train_end(self, trainer: L.Trainer, method: L.LightningModule) -> None:
        self._end()

    def on_exception(self, trainer: L.Trainer, method: L.LightningModule, exception: BaseException) -> None:
        self._end()

    def _end(self) -> None:
        shown, self.shown = self.shown, None
        if shown is not None:
            shown.__exit__()

    def _words(self, metrics: Mapping[str, Any]) -> str:
        """Return the metrics by short name, to three digits."""
        found = by_short_name(dict(metrics) | headline(self.evaluations.scores, self.reward))
        return ", ".join(f"{name} {float(value):.3g}" for name, value in found.items() if name != "v_num")
