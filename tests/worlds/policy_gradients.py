"""Policy-gradient methods in their plainest form: undivided advantages, no clipping, one update per rollout."""

from collections.abc import Callable
from functools import partial
from typing import Any

from rdt.methods.ddpo import DDPO
from rdt.methods.grpo import GRPO
from rdt.policy import Policy
from rdt.rewards.base import Reward
from rdt.rollout import Sampling
from worlds import tiny_policy

POLICIES: dict[str, Callable[..., Policy]] = {
    "ddim": tiny_policy.policy,
    "flow_sde": tiny_policy.flow_policy,
    "cps": partial(tiny_policy.flow_policy, sampler="cps"),
    "posterior": partial(tiny_policy.flow_policy, sampler="posterior"),
}
SHARED = {
    "batch_size": 8, "seed": 0, "lr": 1e-2, "weight_decay": 0.0, "max_grad_norm": 1e9, "adam_eps": 1e-8, "clip": 1e9,
    "kl_coef": 0.0, "min_std": 0.0, "uncond_grad": False, "updates_per_rollout": 1, "num_steps": None,
    "micro_batch_size": None,
}  # fmt: skip


def grpo(policy: Any, reward: Reward | None = None, steps: int = 4, guidance: float = 1.0, **changed: Any) -> GRPO:
    """Return GRPO with groups of 4; `changed` replaces options."""
    options: dict[str, Any] = SHARED | {"group": 4, "std": "none", "window": None, "window_within": 1.0} | changed
    sampling = Sampling(steps, 1.0, guidance)
    return GRPO(policy=policy, reward=reward or tiny_policy.Brightness(), sampling=sampling, **options)


def ddpo(policy: Any, reward: Reward | None = None, steps: int = 4, guidance: float = 1.0, **changed: Any) -> DDPO:
    """Return DDPO on all steps; `changed` replaces options."""
    own = {"std": "none", "stat_size": 32, "stat_min": 16, "advantage_clip": 1e9, "step_fraction": 1.0}
    options: dict[str, Any] = SHARED | own | changed
    sampling = Sampling(steps, 1.0, guidance)
    return DDPO(policy=policy, reward=reward or tiny_policy.Brightness(), sampling=sampling, **options)


METHODS: dict[str, Callable[..., Any]] = {"grpo": grpo, "ddpo": ddpo}
