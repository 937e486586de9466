"""Draw docs/world.png, samples of the embedded world's base model: `python experiments/world.py`."""

from pathlib import Path

import torch

from rdt.models import sd15
from rdt.policy import Adapter, Policy
from rdt.rollout import Sampling, sampled
from rdt.training.record import grid_image, save_image

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = (
    "a small purple diamond",
    "a medium yellow shape",
    "a medium red ring",
    "a medium blue shape on black",
    "a large green square on black",
)
COLUMNS = 8


def main() -> None:
    """Sample the base as `model=shapes` does and write the picture."""
    policy = Policy(sd15.parts(ROOT / "rdt/shapes/weights/base"), Adapter(1, 1, ("to_q",)))
    prompts = [prompt for prompt in PROMPTS for _ in range(COLUMNS)]
    noise = policy.noise(0, "picture", range(len(prompts)))
    with torch.no_grad():
        images = policy.decode(sampled(policy, policy.base, prompts, noise, Sampling(10, 1.0, 1.0)).clean)
    save_image(grid_image(images.view(len(PROMPTS), COLUMNS, *images.shape[1:])), ROOT / "docs/world.png")


if __name__ == "__main__":
    main()
