"""The smallest real run: it makes two updates in the embedded world and evaluates two prompts of two images."""

import csv
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rdt.config.compose import composed

OVERRIDES = (
    "iterations=2", "batch_size=4", "model.sampling.num_steps=3", "model.lora.rank=2", "model.lora.alpha=2",
    "evaluation.prompts=2", "evaluation.images_per_prompt=2", "evaluation.kl_images=1", "evaluation.every=0",
    "evaluation.small_prompts=1", "evaluation.limit=null",
)  # fmt: skip
OWN = {"method=tilt": ("method.prompts=3", "method.images=4", "method.sample_batch_size=3")}  # of some methods
OFFLINE = ("logger=wandb", "logger.wandb.mode=offline")


def minimal(out: Path, *overrides: str) -> DictConfig:
    """Return its resolved config, which writes into `out`, with W&B offline unless `overrides` choose a logger.

    What it keeps for later runs lies beside `out`.
    """
    own = [word for override in overrides for word in OWN.get(override, ())]
    logger = () if any(override.startswith("logger") for override in overrides) else OFFLINE
    cfg = composed("config", *OVERRIDES, *own, f"cache={out}-cache", *logger, *overrides, f"output_dir={out}")
    OmegaConf.resolve(cfg)
    return cfg


def rows(out: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv, one per iteration."""
    with (out / "metrics.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def adapter(out: Path) -> dict[str, Any]:
    """Return the tensors of the LoRA that a run left, by name."""
    from safetensors.torch import load_file  # after conftest has set the number of threads

    return load_file(out / "lora" / "pytorch_lora_weights.safetensors")
