"""Every reward can be planned; if the model has no checkpoint for it, one line names the models that do."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rdt import run
from rdt.config import compose
from rdt.config.compose import conf_dir
from rdt.config.plan import sources
from worlds import reward_checkpoints

CONF = Path(conf_dir())
REWARDS = [file.stem for file in sorted((CONF / "reward").glob("*.yaml"))]
PUBLISHED = OmegaConf.to_container(OmegaConf.load(CONF / "model/checkpoints/published.yaml"))
REAL = [file.stem for file in sorted((CONF / "model").glob("*.yaml")) if "override /world: real" in file.read_text()]


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> dict[str, list[str]]:
    return reward_checkpoints.write(tmp_path_factory.mktemp("published")) | {
        "remote": ["reward.url=http://127.0.0.1:8000"]
    }


@pytest.fixture
def dry(monkeypatch, answered):
    """Return a function that runs `rdt run ... dry_run=true`: (exit status, stdout, stderr)."""
    monkeypatch.delenv("RDT_TRACEBACK", raising=False)
    return lambda *overrides: answered(run.entry, *overrides, "dry_run=true")


def composed(*overrides: str):
    return compose.composed("config", *overrides)


@pytest.mark.parametrize("reward", REWARDS)
def test_every_reward_is_planned(reward, given, dry):
    status, out, err = dry("method=grpo", f"reward={reward}", *given.get(reward, []))
    assert status == 0 and err == ""
    assert f"reward={reward} " in out
    for _, value in (item.split("=") for item in given.get(reward, []) if "checkpoint=" in item or "backbone=" in item):
        assert f": {value} (found)" in out


@pytest.mark.parametrize("reward", ["aesthetic", "imagereward"])
def test_a_missing_checkpoint_names_the_models_that_have_it_and_the_keys_to_give(reward, dry):
    status, out, err = dry(f"reward={reward}")
    assert status == 1 and out == "" and err.count("\n") == 1
    assert f"model=shapes has no checkpoint for {reward}: " in err and "model=shapes_flow" not in err
    assert all(f"model={name}" in err for name in REAL)
    for key in set(PUBLISHED[reward]) & {"checkpoint", "tokenizer", "backbone"}:
        assert f" model.checkpoints.{reward}.{key}=..." in err


@pytest.mark.slow
def test_a_missing_checkpoint_of_a_part_and_of_a_plug_in_is_one_line(dry, tmp_path):
    _, _, err = dry("reward=mixture", "+reward@reward.parts.aesthetic=aesthetic", "+reward.parts.aesthetic.weight=1")
    assert "model=shapes has no checkpoint for aesthetic: " in err
    (tmp_path / "reward").mkdir()
    text = "name: own\n_target_: x.Y\nweights: ${model.checkpoints.own}\n"
    (tmp_path / "reward" / "own.yaml").write_text(text)
    _, _, err = dry("--config-dir", str(tmp_path), "reward=own")
    said = "for own: no model has one, or give +model.checkpoints.own.checkpoint=..."
    assert said in err and err.count("\n") == 1


def test_a_pin_is_shown_in_the_plan(given, dry):
    digest = "0123456789abcdef" * 4
    _, out, _ = dry("reward=aesthetic", *given["aesthetic"], f"model.checkpoints.aesthetic.sha256='{digest}'")
    assert f"(found; loading it checks sha256={digest})" in out


def test_interpolation_is_one_of_two(given, dry):
    _, _, err = dry("reward=aesthetic", *given["aesthetic"], "reward.interpolation=lanczos")
    assert err == "error: reward.interpolation=lanczos is not one of bicubic, bilinear\n"


@pytest.mark.parametrize(
    ("model", "reward"), [("sd15", name) for name in PUBLISHED] + [(name, "hps") for name in REAL if name != "sd15"]
)
def test_a_real_model_reads_every_reward_from_the_published_files(model, reward):
    cfg = composed(f"model={model}", f"reward={reward}")
    OmegaConf.resolve(cfg.reward)
    named = {source for key, source in sources(cfg) if key.startswith("reward.")}
    assert named == {
        PUBLISHED[reward][key] for key in ("checkpoint", "tokenizer", "backbone") if key in PUBLISHED[reward]
    }
    assert all(re.fullmatch(r"hub:[\w.-]+/[\w.-]+(:[\w.-]+)?", source) for source in named)
    assert not OmegaConf.missing_keys(cfg.reward)


def test_bundled_and_published_have_the_same_keys():
    """A reward's yaml fits both worlds, and a missing value can be given without a plus."""
    bundled = OmegaConf.to_container(OmegaConf.load(CONF / "model/checkpoints/bundled.yaml"))
    assert {name: set(keys) for name, keys in bundled.items()} == {name: set(keys) for name, keys in PUBLISHED.items()}
