"""Makes GARDO in its plainest form: with its three switches off, on a reward with an unweighted part."""

from typing import Any

from torch import Tensor

from rdt.methods.gardo import GARDO
from rdt.rewards.base import Reward
from rdt.rewards.mixture import Mixture, Term
from rdt.rollout import Sampling
from worlds import tiny_policy
from worlds.policy_gradients import SHARED

OFF = {
    "gate": "off", "gate_share": 0.1, "gate_bounds": [0.02, 0.2], "gate_within": "batch", "reset_kl": None,
    "reset_every": None, "isolation": "off",
}  # fmt: skip


class Redness(tiny_policy.Brightness):
    """Score an image by its red less its blue."""

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        return (images[:, 0] - images[:, 2]).mean((1, 2))


def judged() -> Mixture:
    """Return brightness as the reward, and redness as a part of weight 0."""
    return Mixture({"bright": Term(tiny_policy.Brightness(), 1.0), "red": Term(Redness(), 0.0)}, "raw")


def gardo(policy: Any, reward: Reward | None = None, steps: int = 4, guidance: float = 1.0, **changed: Any) -> GARDO:
    """Return GARDO with groups of 4 and all three switches off; `changed` replaces options."""
    options: dict[str, Any] = SHARED | {"group": 4, "std": "none"} | OFF | changed
    return GARDO(policy=policy, reward=reward or judged(), sampling=Sampling(steps, 1.0, guidance), **options)
