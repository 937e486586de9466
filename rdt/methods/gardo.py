"""GARDO: GRPO with a gated KL, a reference that moves, and credit for isolated images (He et al. 2512.24138).

Three switches over GRPO with A = r - mean of the group (std=none):
    gate       With win(r) the share of the batch's images that an image beats under a reward r, its uncertainty is
                   U = win(r~) - mean_k win(r^_k),
               r~ being the trained reward and r^_k further rewards that are never optimised: here the parts of
               reward=mixture whose weight is 0. The KL holds only images whose U is above the (1 - k) quantile, those
               that the trained reward alone finds good. k starts at `gate_share`; it is multiplied by 1.1 where the
               batch's uncertainty exceeds all of the last 20 batches', by 0.9 where it is below all of them, and stays
               within `gate_bounds`.
    reference  It becomes the tuned policy once the KL per step and latent dimension exceeds `reset_kl`, or after
               `reset_every` updates.
    isolation  d_i = min_{j != i} (1 - cos(f_i, f_j)) over the prompt's images; A_i becomes A_i d_i where A_i > 0.
With the gate at `all` and no reset the optimum is GRPO's, the base tilted by exp(r / alpha). A reset after convergence
tilts again: n rounds end at the base tilted by exp(n r / alpha), so resets bound the speed, not the reward. With
reset_every=1 and one update per rollout the reference is the policy of the rollout, and the KL is 0. With all
three off it is `method=grpo` with std=none and kl_coef=0, bit for bit.

Departures: the official code ranks from the best down, so its gate holds images that the trained reward finds worst,
and it takes the quantile of the non-negative U, so k = 0.1 holds about 5 %; here it is the paper's gate (Eq. 7). The
mean of U over a batch without ties is 0 whatever the policy does, so k follows the mean of max(U, 0). Win rates and
quantile over the batch mix prompts; gate_within=prompt, as in the paper's Algorithm 1, does not. d is divided by the
group's mean, as in the code, so that the scale of the advantages stays; isolation=raw is the paper's text. The paper's
KL leaves out dt and is a mean over the held images alone; here it is a mean over all, so beta = 0.04 at ten steps is
kl_coef = 0.04 at k = 0.1, and 1e-4 is reset_kl = 1e-3. With no image above the quantile none is held. A step's weight
by its noise over the mean of the micro-batch's, which all share one time in the code, is 1 always and left out.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rdt.methods.base import named
from rdt.methods.grpo import GRPO
from rdt.policy import Denoiser

REFERENCE = "reference"  # the snapshot that the KL is to after the first reset
WATCHED = 20  # batches whose uncertainty the next one's is compared with
RESOLUTION = 1e-4  # of cosine distances; a group whose mean is below it does not differ


def win_rate(scores: Tensor) -> Tensor:
    """Return the share of its row that each score beats, (..., N) -> (..., N); of equal scores none beats another."""
    return (scores[..., :, None] > scores[..., None, :]).double().mean(-1)


def uncertainty(proxy: Tensor, others: Tensor) -> Tensor:
    """Return win(r~) - mean_k win(r^_k) of scores (..., N) and others (..., N, R), shape (..., N)."""
    return win_rate(proxy) - win_rate(others.movedim(-1, 0)).mean(0)


def above_quantile(values: Tensor, share: float) -> Tensor:
    """Return which values of each row (..., N) exceed its (1 - share) quantile, bool; of equal values none does."""
    return values > values.quantile(1 - share, dim=-1, keepdim=True)


def isolation(features: Tensor) -> Tensor:
    """Return min_{j != i} (1 - cos(f_i, f_j)), (P, K, D) -> (P, K), in double precision."""
    unit = F.normalize(features.double(), dim=-1)
    distances = 1 - unit @ unit.transpose(1, 2)
    itself = torch.eye(features.shape[1], dtype=torch.bool)
    return distances.masked_fill(itself, torch.inf).amin(-1).clamp(min=0)


def relative_to_mean(d: Tensor) -> Tensor:
    """Return d (P, K) divided by the mean of its group; 1 in a group whose images do not differ."""
    mean = d.mean(1, keepdim=True)
    return torch.where(mean < RESOLUTION, 1.0, d / mean.clamp(min=RESOLUTION))


SCALES: dict[str, Callable[[Tensor], Tensor] | None] = {"off": None, "mean": relative_to_mean, "raw": lambda d: d}


class Gate:
    """Decide which images the KL holds, and how many: its share k follows the uncertainty of the batches so far."""

    def __init__(self, share: float, bounds: Sequence[float], by_prompt: bool) -> None:
        self.share, (self.low, self.high), self.by_prompt = share, bounds, by_prompt
        if not 0 < self.low <= share <= self.high <= 1:
            raise ValueError(
                f"method.gate_share={share} must lie in method.gate_bounds=[{self.low}, {self.high}], above 0 and at"
                " most 1"
            )
        self.levels: list[float] = []  # of the latest batches

    def __call__(self, proxy: Tensor, others: Tensor) -> Tensor:
        """Return which images are held, (P, K) bool, by scores (P, K) and others (P, K, R), and adapt the share."""
        if not self.by_prompt:
            proxy, others = proxy.reshape(1, -1), others.reshape(1, -1, others.shape[-1])
        U = uncertainty(proxy, others)
        self.follow(U.clamp(min=0).mean().item())
        return above_quantile(U, self.share)

    def follow(self, level: float) -> None:
        """Raise or lower the share if the level of this batch is beyond those of the latest batches."""
        if len(self.levels) == WATCHED:
            factor = 1.1 if level > max(self.levels) else 0.9 if level < min(self.levels) else 1.0
            self.share = min(max(self.share * factor, self.low), self.high)
        self.levels = [*self.levels, level][-WATCHED:]


class GARDO(GRPO):
    """Train by GRPO with a gated KL to a reference that moves, and more credit for good images that stand apart."""

    def __init__(
        self, *, gate: str, gate_share: float, gate_bounds: Sequence[float], gate_within: str,
        reset_kl: float | None, reset_every: int | None, isolation: str, **shared: Any,
    ) -> None:  # fmt: skip
        super().__init__(**shared)
        self.gates = named("method.gate", gate, {"uncertain": True, "all": False, "off": False})
        self.holds = gate == "all"
        by_prompt = named("method.gate_within", gate_within, {"batch": False, "prompt": True})
        self.gate = Gate(gate_share, gate_bounds, by_prompt)
        if self.gates and not self.reward.unweighted:
            raise ValueError(
                "method.gate=uncertain compares the reward with parts of reward=mixture whose weight is 0, and there is"
                " none; give such a part, or take method.gate=all"
            )
        if (reset_kl is not None and reset_kl <= 0) or (reset_every is not None and reset_every < 1):
            raise ValueError(f"method.reset_kl={reset_kl} and method.reset_every={reset_every} must be above 0 or null")
        self.reset_kl, self.reset_every = reset_kl, reset_every
        self.scale = named("method.isolation", isolation, SCALES)
        if self.scale:
            self.check_embedder("method.isolation", isolation)
        self.resets, self.since_reset = 0, 0  # updates since the latest

    @property
    def kl_view(self) -> Denoiser:
        """Return the reference: what GRPO's KL is to, until the first reset."""
        return self.policy.view(REFERENCE) if self.resets else super().kl_view

    def held(self, parts: Tensor) -> Tensor:
        """Return which kept candidates the KL holds, by the reward's parts, (P, K, R) -> (P, K)."""
        if not self.gates:
            return torch.full(parts.shape[:2], self.holds)
        held = self.gate(self.reward.total(parts), parts[..., self.reward.unweighted]).view(parts.shape[:2])
        self.log_train(gate_share=self.gate.share, held=held.double().mean())
        return held

    def credited(self, advantages: Tensor, kept: Tensor, images: list[Tensor]) -> Tensor:
        """Return the advantages (P, K), the positive ones multiplied by how far their images are from all others."""
        if not self.scale:
            return advantages
        d = isolation(self.features(images, kept))
        self.log_train(isolation=d.mean())
        weight = self.scale(d).reshape(*d.shape, *[1] * (advantages.ndim - 2))
        return torch.where(advantages > 0, advantages * weight, advantages)

    def updated(self, metrics: dict[str, Tensor]) -> None:
        """Move the reference to the tuned policy if that is due."""
        self.since_reset += 1
        per_rollout = len(self.steps.candidates(self.iteration)) * self.rollouts.trajectory.clean[0].numel()
        far = "kl_nats" in metrics and self.reset_kl and metrics["kl_nats"].item() / per_rollout > self.reset_kl
        if far or self.since_reset == self.reset_every:
            self.policy.keep(REFERENCE)
            self.resets, self.since_reset = self.resets + 1, 0
        self.log_train(resets=float(self.resets))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["gardo"] = {
            "share": self.gate.share, "levels": self.gate.levels, "resets": self.resets, "since": self.since_reset,
        }  # fmt: skip

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint["gardo"]
        self.gate.share, self.gate.levels = saved["share"], saved["levels"]
        self.resets, self.since_reset = saved["resets"], saved["since"]
