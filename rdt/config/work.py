"""What an update of a method computes, counted from its config before anything is loaded.

A method's yaml names one of these classes in `plan.update`. All counts are over all devices: rows are single samples in
the network, of which classifier-free guidance runs two a sample. An update in which fewer samples carry a signal, or a
rollout that stops early, costs less than is counted here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Update:
    """Holds the counts of one update; images include those of its share of a rollout."""

    forward: float  # rows forward, beyond those of the rollout
    back: float  # rows backward
    held: float  # rows whose activations are kept at one time, without micro-batches
    decoded: float  # images
    climbed: float  # of these, images decoded with a gradient
    stored: float = 0  # trajectories that stay in memory


@dataclass(frozen=True)
class LastSteps:
    """Counts a gradient through a rollout's last steps: DRaFT, DRaFT-LV, DRaFT+, AIG and ReFL."""

    steps: float  # with gradient, on average
    most: float | None = None  # the most of them; None: always as many
    kl_coef: float = 0.0  # 0: the base is not run
    repeats: int = 0  # more gradients through one step each

    def __call__(self, batch: int, rows: int) -> Update:
        """Return the counts for a batch whose samples take `rows` rows each."""
        tuned, again, images = rows * batch * self.steps, rows * batch * self.repeats, batch * (1 + self.repeats)
        base = (tuned, tuned - rows * batch) if self.kl_coef else (0, 0)  # the first state has no gradient
        held = (tuned + base[1]) * (self.most or self.steps) / self.steps + again
        return Update(base[0] + again, tuned + base[1] + again, held, images, images)


def random_steps(truncation: str, mean: float, std: float, num_steps: int) -> LastSteps:
    """Return the counts of AlignProp, which draws how many of a rollout's last steps have a gradient."""
    if truncation == "uniform":
        return LastSteps((1 + num_steps) / 2, num_steps)
    expected, spread = num_steps * (1 - mean / 50), num_steps * 3 * std / 50
    return LastSteps(max(1.0, expected), min(num_steps, max(1.0, expected + spread)))


@dataclass(frozen=True)
class LookAhead:
    """Counts SQDF: tuned and base at replayed states, and a gradient through the tuned step and the look-ahead."""

    look_ahead: str
    n_step: int
    replay_ratio: float
    capacity: int

    def __call__(self, batch: int, rows: int) -> Update:
        """Return the counts for a batch whose samples take `rows` rows each."""
        ahead = {"consistency": 1, "tweedie": rows, "n_step": rows * self.n_step}[self.look_ahead]
        back = (rows + ahead) * batch
        return Update(back + rows * batch, back, back, batch * (1 + 1 / self.replay_ratio), batch, self.capacity)


@dataclass(frozen=True)
class Actions:
    """Counts policy gradients, which learn from stochastic steps of stored rollouts: DDPO, GRPO and DRIFT."""

    num_steps: int | None  # of a training rollout; None: as many as the sampler has
    sampler_steps: int
    updates_per_rollout: int
    kl_coef: float
    uncond_grad: bool
    window: int | None = None  # how many of the steps are stochastic; None: all
    fraction: float = 1.0  # of the stochastic steps
    group: int = 1
    keep: int | None = None  # of each group; None: all
    concentrate: str = "off"  # how they are chosen; off: all
    last_step: bool = True  # whether the last step is learnt from

    def __call__(self, batch: int, rows: int) -> Update:
        """Return the counts for a rollout of `batch` images, whose samples take `rows` rows each."""
        kept = self.group if self.concentrate == "off" else min(self.keep or self.group, self.group)
        sampled, learnt = batch / self.updates_per_rollout, kept / self.group
        steps = self.window or (self.num_steps or self.sampler_steps) - (not self.last_step)
        states = sampled * learnt * max(1, round(self.fraction * steps))
        graded = rows if self.uncond_grad else 1
        forward = states * rows * (2 if self.kl_coef else 1)
        return Update(forward, states * graded, graded * sampled * learnt, sampled, 0, batch)


@dataclass(frozen=True)
class Regression:
    """Counts a regression on stored images: tuned and base at one noise level of each."""

    def __call__(self, batch: int, rows: int) -> Update:
        """Return the counts for a batch of images whose passes are guided with `rows` rows each."""
        return Update(2 * rows * batch, batch, batch, 0, 0)
