"""Every method resumes exactly, and trains the same weights on two ranks, on diffusion and on flow."""

from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from rdt.config.compose import conf_dir
from rdt.training.launch import launch, work
from worlds.smallest_run import adapter, minimal

FAST = {"drift"}
METHODS = [file.stem for file in sorted((Path(conf_dir()) / "method").glob("*.yaml"))]


def config(out: Path, model: str, method: str, *overrides: str) -> DictConfig:
    """Return a run of three iterations with a checkpoint after each."""
    settings = ("logger=csv", "evaluation.kl_images=0", "iterations=3", "batch_size=8", "trainer.checkpoint_every=1")
    return minimal(out, f"model={model}", f"method={method}", *settings, *overrides)


def moved(weights: dict[str, torch.Tensor]) -> bool:
    """Return whether an adapter has left the zeros it starts with."""
    return any(tensor.any() for name, tensor in weights.items() if "lora_B" in name or "lora.up" in name)


@pytest.mark.parametrize("method", [pytest.param(m, marks=[pytest.mark.slow] * (m not in FAST)) for m in METHODS])
def test_every_method_resumes_exactly_on_the_flow_model(method: str, tmp_path: Path) -> None:
    """On the diffusion model, test_conf runs every method, and the tests of SQDF and DDPO resume them."""
    work(config(tmp_path / "whole", "shapes_flow", method))
    interrupted = tmp_path / "whole" / "checkpoints" / "000002"
    work(config(tmp_path / "resumed", "shapes_flow", method, f"resume={interrupted}"))
    whole, resumed = adapter(tmp_path / "whole"), adapter(tmp_path / "resumed")
    assert whole.keys() == resumed.keys() and all(tensor.equal(resumed[name]) for name, tensor in whole.items())
    assert moved(whole)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["shapes", "shapes_flow"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_two_ranks_what_it_trains_on_one(method: str, model: str, tmp_path: Path) -> None:
    """The weights are equal bit for bit if both put 4 samples through the networks at once, each rank its share."""
    work(config(tmp_path / "alone", model, method, "micro_batch_size=4"))
    launch(config(tmp_path / "two_ranks", model, method, "devices=2"))
    alone, two_ranks = adapter(tmp_path / "alone"), adapter(tmp_path / "two_ranks")
    assert alone.keys() == two_ranks.keys() and moved(alone)
    assert [name for name, tensor in alone.items() if not tensor.equal(two_ranks[name])] == []
