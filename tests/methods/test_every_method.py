"""What a method gets from the house, on diffusion and on flow: it goes on exactly, and spreads over processes."""

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
    settings = ("logger=csv", "evaluation.kl_images=0", "iterations=3", "batch_size=8", "trainer.checkpoint_every=1")
    return minimal(out, f"model={model}", f"method={method}", *settings, *overrides)


def moved(weights: dict[str, torch.Tensor]) -> bool:
    """From the zeros that an adapter starts with."""
    return any(tensor.any() for name, tensor in weights.items() if "lora_B" in name or "lora.up" in name)


@pytest.mark.parametrize("method", [pytest.param(m, marks=[pytest.mark.slow] * (m not in FAST)) for m in METHODS])
def test_every_method_goes_on_exactly_on_the_flow_model(method: str, tmp_path: Path) -> None:
    """Every method runs on the diffusion model in test_conf, and SQDF and DDPO go on there in their own tests."""
    work(config(tmp_path / "whole", "shapes_flow", method))
    broken_off = tmp_path / "whole" / "checkpoints" / "000002"
    work(config(tmp_path / "on", "shapes_flow", method, f"resume={broken_off}"))
    whole, on = adapter(tmp_path / "whole"), adapter(tmp_path / "on")
    assert whole.keys() == on.keys() and all(tensor.equal(on[name]) for name, tensor in whole.items())
    assert moved(whole)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["shapes", "shapes_flow"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_two_processes_what_it_does_on_one(method: str, model: str, tmp_path: Path) -> None:
    """Bit for bit, where both put as many samples through the networks at once: each process its share of 4."""
    work(config(tmp_path / "alone", model, method, "micro_batch_size=4"))
    launch(config(tmp_path / "spread", model, method, "devices=2"))
    alone, spread = adapter(tmp_path / "alone"), adapter(tmp_path / "spread")
    assert alone.keys() == spread.keys() and moved(alone)
    assert [name for name, tensor in alone.items() if not tensor.equal(spread[name])] == []
