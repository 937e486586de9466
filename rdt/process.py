"""Noising processes x_t = alpha_t x_0 + sigma_t e, diffusion and rectified flow, and the sampler steps that undo them.

Every sampler step is a Gaussian `Transition`. A `Step` says how much of the estimated noise it keeps and how much fresh
noise it adds: DDIM (Song et al. 2010.02502), Flow-SDE (Liu et al. 2505.05470), CPS (Wang and Yu 2509.05952), or the
posterior, which is DDIM's rule in terms that hold for flows too.
Consistency models use the scalings of LCM (Luo et al. 2310.04378).

A time that all samples share is a () tensor on the host, so that no step waits for the device. Times per sample have
shape (B,). Latents are float32.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Transition:
    """Holds the Gaussian p(x_{i+1} | x_i) = N(mean, std^2)."""

    mean: Tensor  # (B, *latent)
    std: Tensor  # (B, 1, ..., 1); 0 for an ODE step
    x0: Tensor  # (B, *latent), the clean estimate the step was built from

    def __getitem__(self, rows: Tensor) -> "Transition":
        return Transition(self.mean[rows], self.std[rows], self.x0[rows])

    def sample(self, noise: Tensor) -> Tensor:
        """Return the next latents, (B, *latent), for standard normal noise; differentiable in the mean."""
        return self.mean + self.std * noise

    def log_prob(self, x_next: Tensor) -> Tensor:
        """Return log-probabilities (B,) in nats, AVERAGED over latent dimensions as in DDPO; 0 if std is 0."""
        std = torch.where(self.std > 0, self.std, 1)  # keeps gradients finite where the density does not exist
        density = -((x_next - self.mean) ** 2) / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)
        return torch.where(self.std > 0, density, 0).flatten(1).mean(1)

    def kl(self, other: "Transition", min_std: float = 0.0) -> Tensor:
        """Return KL(self || other), (B,) in nats, SUMMED over latent dimensions; 0 if std is 0.

        Both transitions must have the same std. `min_std` clamps it from below, because 1 / std^2 spans three orders of
        magnitude over a rollout.
        """
        std = torch.where(self.std > 0, self.std, 1).clamp(min=min_std)
        return torch.where(self.std > 0, (self.mean - other.mean) ** 2 / (2 * std**2), 0).flatten(1).sum(1)


@dataclass(frozen=True)
class Scales:
    """Hold the coefficients of x_t at one time; each is () or (B, 1, ..., 1)."""

    alpha: Tensor  # of the clean sample
    sigma: Tensor  # of the noise


@dataclass(frozen=True)
class Step:
    """Hold the coefficients of x_{i+1} = alpha_{i+1} x0_hat + keep e_hat + std noise."""

    keep: Tensor
    std: Tensor


def ddim(now: Scales, after: Scales, eta: float) -> Step:
    """Return the DDIM step: eta 0 is deterministic, eta 1 is DDPM."""
    std = eta * after.sigma / now.sigma * (1 - now.alpha**2 / after.alpha**2).sqrt()
    return Step((after.sigma**2 - std**2).clamp(min=0).sqrt(), std)  # rounding can give < 0 if sigma is tiny


def flow_sde(now: Scales, after: Scales, eta: float) -> Step:
    """Return the step of Flow-GRPO's drift-corrected SDE: std = eta sqrt(t / (1 - t)) sqrt(dt), for sigma = t.

    Trap: at t = 1 the ratio is infinite. As in Flow-GRPO, 1 - t is then taken at the next time, while t stays 1.
    """
    std = eta * (now.sigma / torch.where(now.alpha == 0, after.alpha, now.alpha) * (now.sigma - after.sigma)).sqrt()
    return Step(after.sigma - std**2 / (2 * now.sigma), std)


def cps(now: Scales, after: Scales, eta: float) -> Step:
    """Return the coefficients-preserving step: std = sigma_{i+1} sin(eta pi / 2), keep^2 + std^2 = sigma_{i+1}^2."""
    return Step(after.sigma * math.cos(eta * math.pi / 2), after.sigma * math.sin(eta * math.pi / 2))


def posterior(now: Scales, after: Scales, eta: float) -> Step:
    """Return the step that at eta 1 draws from q(x_{i+1} | x_i, x_0 = x0_hat); it equals `ddim` on a diffusion.

    std = eta sigma_{i+1} sqrt(1 - (sigma_{i+1} alpha_i / (sigma_i alpha_{i+1}))^2), keep^2 + std^2 = sigma_{i+1}^2.
    """
    share = after.sigma * now.alpha / (now.sigma * after.alpha)
    std = eta * after.sigma * (1 - share**2).sqrt()
    return Step((after.sigma**2 - std**2).clamp(min=0).sqrt(), std)


Split = tuple[Tensor, Tensor]  # (x0_hat, e_hat)

SPLITS: dict[str, Callable[[Tensor, Tensor, Scales], Split]] = {  # (output, x, scales) -> (x0_hat, e_hat)
    "epsilon": lambda output, x, at: ((x - at.sigma * output) / at.alpha, output),
    "v_prediction": lambda output, x, at: (at.alpha * x - at.sigma * output, at.alpha * output + at.sigma * x),
    "sample": lambda output, x, at: (output, (x - at.alpha * output) / at.sigma),
    "velocity": lambda output, x, at: (x - at.sigma * output, x + at.alpha * output),
}
TARGETS: dict[str, Callable[[Tensor, Tensor, Scales], Tensor]] = {  # (x0, noise, scales) -> output, inverse to SPLITS
    "epsilon": lambda x0, noise, at: noise,
    "v_prediction": lambda x0, noise, at: at.alpha * noise - at.sigma * x0,
    "sample": lambda x0, noise, at: x0,
    "velocity": lambda x0, noise, at: noise - x0,
}
SAMPLERS = {"sde": flow_sde, "cps": cps, "posterior": posterior}  # of a flow

Factor = Callable[[Scales], Tensor | float]
SPACES: dict[str, Factor] = {  # what a difference of clean samples at one x_t is multiplied by, in magnitude
    "x0": lambda at: 1.0,
    "velocity": lambda at: 1 / at.sigma,
    "noise": lambda at: at.alpha / at.sigma,
}
CLEAN: dict[str, tuple[str, Factor]] = {  # the space of outputs, and what makes their difference one of clean samples
    "epsilon": ("noise", lambda at: at.sigma / at.alpha),
    "v_prediction": ("velocity", lambda at: at.sigma),
    "sample": ("x0", lambda at: 1.0),
    "velocity": ("velocity", lambda at: at.sigma),
}


class Process(ABC):
    """Define what diffusion and flow share; a subclass defines its times and the coefficients at each time."""

    def __init__(self, prediction: str, step: Callable[[Scales, Scales, float], Step]) -> None:
        self.prediction, self._step = prediction, step

    @abstractmethod
    def times(self, num_steps: int) -> Tensor:
        """Return the T + 1 times of a rollout, (T + 1,) on the host, from pure noise to clean."""

    @abstractmethod
    def level(self, t: Tensor) -> Tensor:
        """Return the noise level of each time, from 0 (clean) to 1 (pure noise), in the shape of t."""

    @abstractmethod
    def _scales(self, t: Tensor) -> Scales: ...

    def perturb(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t, (B, *latent), for clean x0."""
        at = self._at(t, x0)
        return at.alpha * x0 + at.sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the output, (B, *latent), that a network is trained to give at x_t = `perturb(x0, noise, t)`."""
        return TARGETS[self.prediction](x0, noise, self._at(t, x0))

    def difference(self, output: Tensor, other: Tensor, t: Tensor, space: str | None = None) -> Tensor:
        """Return two outputs' difference at one x_t, (B, *latent), in a space of SPACES up to its sign.

        None is the network's own space. The `other` may be `target`: that is the network's error.
        """
        own, per_output = CLEAN[self.prediction]
        difference = output - other
        if space in (None, own):
            return difference
        at = self._at(t, difference)
        return difference * (per_output(at) * SPACES[space](at))

    def sigma(self, t: Tensor) -> Tensor:
        """Return the coefficient of the noise at each time, in the shape of t; it is t itself on a flow."""
        return self._scales(t).sigma

    def transition(self, output: Tensor, x: Tensor, t: Tensor, t_next: Tensor, eta: float) -> Transition:
        """Return the sampler's step from t to t_next, given the network's output at (x, t)."""
        x0, noise = self._split(output, x, t)
        after = self._at(t_next, x)
        step = self._step(self._at(t, x), after, eta)
        std = x0.new_ones(len(x0), *[1] * (x0.ndim - 1)) * step.std
        return Transition(after.alpha * x0 + step.keep * noise, std, x0)

    def clean(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the estimate x0_hat, (B, *latent), given the network's output at (x, t)."""
        return self._split(output, x, t)[0]

    def consistency(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return x0, (B, *latent), under a consistency model's scalings; ValueError if the process has none."""
        raise ValueError("a flow model has no consistency scalings; set method.look_ahead=tweedie or n_step")

    def _split(self, output: Tensor, x: Tensor, t: Tensor) -> Split:
        # The cast gives one precision for shared and own times: a () coefficient would not promote a bf16 output.
        return SPLITS[self.prediction](output.to(x.dtype), x, self._at(t, x))

    def _at(self, t: Tensor, x: Tensor) -> Scales:
        return self._scales(column(t, x))


class Diffusion(Process):
    """Implement variance-preserving diffusion, sampled by DDIM; t is a training step (long), -1 the clean end."""

    def __init__(
        self,
        *,
        alphas_cumprod: Tensor,
        prediction: str,
        set_alpha_to_one: bool = False,
        steps_offset: int = 1,
        spacing: str = "leading",
    ) -> None:
        if prediction not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(f"prediction={prediction} is not one of epsilon, v_prediction, sample")
        if spacing not in ("leading", "trailing"):
            raise ValueError(f"spacing={spacing} is not one of leading, trailing")
        super().__init__(prediction, ddim)
        self.num_train_steps, self.steps_offset, self.spacing = len(alphas_cumprod), steps_offset, spacing
        last = torch.ones_like(alphas_cumprod[:1]) if set_alpha_to_one else alphas_cumprod[:1]
        table = torch.cat([alphas_cumprod, last]).float().cpu()  # the clean end's entry is last, at index -1
        self._tables = {table.device: table}

    def times(self, num_steps: int) -> Tensor:
        """Return training steps in diffusers' spacing, then the clean end, -1; ValueError if there are no such steps.

        "leading" counts strides from the first training step and adds the offset, "trailing" from the last one down,
        rounded. If a stride would not be whole, diffusers' trailing steps end up to one training step beside the next
        time; here they end on it. A stride of 1 ends on step 0 if the offset is 1, as in diffusers.
        """
        train = self.num_train_steps
        stride = max(train // max(num_steps, 1), 1)
        offset = self.steps_offset if self.spacing == "leading" else 0
        if num_steps < 1 or stride * (num_steps - 1) + offset >= train:
            raise ValueError(f"num_steps={num_steps} must be from 1 to {train - offset}")
        if self.spacing == "trailing":
            times = (torch.arange(num_steps, 0, -1, dtype=torch.float64) * train / num_steps).round().long() - 1
        else:
            times = torch.arange(num_steps).flip(0) * stride + offset
        if self.prediction == "epsilon" and self._tables[torch.device("cpu")][times[0]] == 0:
            raise ValueError("prediction=epsilon has no clean estimate at a zero signal-to-noise ratio")
        return torch.cat([times, torch.tensor([offset - 1 if stride == 1 else -1])])

    def consistency(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return x0 under LCM's boundary scalings (sigma_data 0.5, time scaling 10); x itself at the clean end."""
        scaled = column(t, x).clamp(min=0) * 10.0
        c_skip, c_out = 0.25 / (scaled**2 + 0.25), scaled / (scaled**2 + 0.25).sqrt()
        return c_skip * x + c_out * self.clean(output, x, t)

    def level(self, t: Tensor) -> Tensor:
        return t.clamp(min=0) / self.num_train_steps

    def _scales(self, t: Tensor) -> Scales:
        if t.device not in self._tables:
            self._tables[t.device] = self._tables[torch.device("cpu")].to(t.device)
        alphas = self._tables[t.device].take(t)  # take: plain indexing by a () tensor waits for the device
        return Scales(alphas.sqrt(), (1 - alphas).sqrt())


class Flow(Process):
    """Implement rectified flow, x_t = (1 - t) x_0 + t e, whose network predicts e - x_0; eta 0 is the ODE."""

    def __init__(self, *, shift: float = 1.0, sampler: str = "sde", last: float | None = None) -> None:
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler={sampler} is not one of {', '.join(SAMPLERS)}")
        super().__init__("velocity", SAMPLERS[sampler])
        self.shift, self.last = shift, last

    def times(self, num_steps: int) -> Tensor:
        """Return times from 1 to 0, evenly spaced and then shifted by t -> shift t / (1 + (shift - 1) t).

        If `last` is given, the first T times run from 1 to `last`, as diffusers samples Stable Diffusion 3. The shift
        is written so that both ends are exact.
        """
        if num_steps < 1:
            raise ValueError(f"num_steps={num_steps} must be at least 1")
        even = torch.linspace(1, 0, num_steps + 1)
        if self.last is not None:
            even = torch.cat([torch.linspace(1, self.last, num_steps), torch.zeros(1)])
        return 1 / (1 + (1 / even - 1) / self.shift)

    def level(self, t: Tensor) -> Tensor:
        return t

    def _scales(self, t: Tensor) -> Scales:
        return Scales(1 - t, t)


def column(t: Tensor, x: Tensor) -> Tensor:
    """Return times (B,) as (B, 1, ..., 1) on x's device; a () time stays on the host, where any device can use it."""
    return t.to(x.device, non_blocking=True).view(-1, *[1] * (x.ndim - 1)) if t.ndim else t
