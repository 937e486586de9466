"""The passes of rollouts that a dry run foresees are those that a method of groups makes, on diffusion and on flow."""

import re
from pathlib import Path

import pytest
from torch import Tensor

from rdt.config.plan import plan
from rdt.rollout import Sampling
from rdt.training.experiment import built
from worlds import tiny_policy
from worlds.groups import pixels
from worlds.judged import judged
from worlds.smallest_run import minimal

POLICIES = {"shapes": tiny_policy.policy, "shapes_flow": tiny_policy.flow_policy}
NUMBERS = ("method.group=4", "method.num_steps=4", "method.min_std=0", "batch_size=8", "iterations=3")


@pytest.mark.parametrize("model", POLICIES)
@pytest.mark.parametrize("name", ["grpo", "drift", "gardo", "diverse_grpo"])
def test_the_foreseen_passes_of_rollouts_are_the_counted_ones(name: str, model: str, tmp_path: Path) -> None:
    """Updates are left out here: their passes depend on which images carry a signal."""
    own = ("method.keep=2",) if name == "drift" else ()
    cfg = minimal(
        tmp_path / "never", "logger=csv", f"model={model}", f"method={name}", *NUMBERS, *own,
        "method.updates_per_rollout=2",
    )  # fmt: skip
    policy, scale = POLICIES[model](), cfg.model.sampling.guidance_scale
    given = {} if name == "grpo" else {"embedder": pixels}
    method = built(cfg.method, "name", "plan", partial=True)(
        policy=policy, reward=judged(), sampling=Sampling(9, 1.0, scale), batch_size=cfg.batch_size, seed=0,
        adam_eps=1e-8, micro_batch_size=None, **given,
    )  # fmt: skip
    method.update = lambda micro_batches, count: dict[str, Tensor]()
    tiny_policy.fit(method, cfg.iterations)
    found = re.search(r"sample for that: ([\d,]+) network passes", plan(cfg))
    assert found and int(found[1].replace(",", "")) == policy.passes == 2 * 8 * 4 * (1 if scale == 1 else 2)
