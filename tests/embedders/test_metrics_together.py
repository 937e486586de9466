"""Metrics of several choices stand side by side in one run, each on its own features, or are refused together."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from rdt import run
from rdt.embedders.dreamsim import dreamsim
from rdt.evaluation import Evaluator, Protocol
from rdt.result import read
from rdt.rollout import Sampling
from rdt.training.launch import work
from worlds import feature_checkpoints, tiny_policy
from worlds.smallest_run import minimal


class Projected(nn.Module):
    """Embeds images as DreamSim's package does: by extractors that keep their device beside them."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.extractor_list = nn.ModuleList([nn.Identity()])
        self.weight = nn.Parameter(torch.randn(3 * 8 * 8, 7, generator=generator))

    def embed(self, images):
        return nn.functional.adaptive_avg_pool2d(images, 8).flatten(1) @ self.weight


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Return the overrides with which metrics find tiny checkpoints; DreamSim's package is a small network."""
    package = ModuleType("dreamsim")
    package.dreamsim = lambda **_: (Projected(), None)
    monkeypatch.setitem(sys.modules, "dreamsim", package)
    dreamsim.cache_clear()
    files = feature_checkpoints.lpips_files(tmp_path)["alex"]
    found = {
        "lpips": [f"diversity.embedders.lpips.{key}={'null' if v is None else v}" for key, v in files.items()]
        + ["diversity.embedders.lpips.size=70"],
        "dreamsim": [f"diversity.embedders.dreamsim.folder={tmp_path / 'dreamsim'}"],
        "dino": [f"diversity.embedders.dino.checkpoint={feature_checkpoints.dinov2_folder(tmp_path / 'dino')}"],
        "clip": [f"diversity.embedders.clip.checkpoint={feature_checkpoints.clip_folder(tmp_path / 'clip')}"],
    }
    yield found
    dreamsim.cache_clear()


def measured(given, out, *names):
    """Return the values per prompt of a run with these choices of metrics."""
    keys = [override for name in names for override in given[name]]
    left_out = [f"~diversity.overall.{name}" for name in names if name in ("dino", "clip")]
    work(minimal(out, "logger=csv", "method=draft", f"diversity=[{','.join(names)}]", *keys, *left_out))
    return read(out).tuned.per_prompt


def test_lpips_and_dreamsim_of_one_run_are_those_of_two(given, tmp_path):
    together = measured(given, tmp_path / "all", "lpips", "dreamsim", "dino", "clip")
    names = {"diversity/lpips", "diversity/dreamsim", "diversity/clip_vendi", "diversity/dino_pairwise"}
    assert names <= together.keys()
    for name in ("lpips", "dreamsim"):
        alone = measured(given, tmp_path / name, name)[f"diversity/{name}"]
        assert together[f"diversity/{name}"] == alone and all(value > 0 for value in alone)


def test_two_choices_that_fill_one_key_are_refused(tmp_path, answered):
    folder = tmp_path / "conf" / "diversity"
    folder.mkdir(parents=True)
    for name, statistic in (("one", "vendi"), ("two", "mean_pairwise_distance")):
        (folder / f"{name}.yaml").write_text(
            "embedder: null\nembedders: {}\nfidelity: {}\noverall: {}\nmeasures:\n  features:\n"
            "    _target_: rdt.diversity.Diversity\n    embedder: null\n    statistics:\n"
            f"      pairs: {{_target_: rdt.diversity.{statistic}, _partial_: true}}\n"
        )
    words = ["--config-dir", str(tmp_path / "conf"), "diversity=[one,two]", "dry_run=true", f"output_dir={tmp_path}/o"]
    status, _, err = answered(run.entry, *words)
    assert status and "one and two both fill diversity.measures.features.statistics.pairs._target_" in err


def test_choices_that_agree_on_a_key_are_merged(tmp_path, answered):
    words = ["diversity=[lpips,dreamsim,clip,dino,inception]", "dry_run=true", f"output_dir={tmp_path}/o"]
    _, _, err = answered(run.entry, *words)
    assert "both fill" not in err


def test_measures_of_one_name_stop_an_evaluation():
    policy = tiny_policy.policy()
    protocol = Protocol(tiny_policy.PROMPTS[:1], 2, 0, 2, seed=0, grid=(1, 1))
    twice = [lambda images, prompt: {"same": 1.0}] * 2
    evaluator = Evaluator(protocol, {}, twice, [])
    with pytest.raises(ValueError, match="two metrics are named diversity/same"):
        evaluator.run(policy, {"tuned": policy.tuned}, policy.base, Sampling(2, 1.0, 1.0), rank=0, world=1)
