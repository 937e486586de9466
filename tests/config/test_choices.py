"""Every choice in conf/ composes, and every method takes two steps on the embedded model."""

import math
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rdt import run
from rdt.config.compose import conf_dir
from rdt.training.launch import work
from worlds.smallest_run import minimal, rows

CONF = Path(conf_dir())
GROUPS = (
    "method", "reward", "model", "guidance", "prompts", "diversity", "evaluation", "sweep", "constraint", "trainer",
    "logger", "experiment", "without",
)  # fmt: skip
GIVEN = {
    "prompts=file": ["prompts.train_file=train.txt", "prompts.held_out_file=held_out.txt"],
    "prompts=hub": ["prompts.data=dataset:owner/name:prompts.jsonl", "prompts.key=prompt"],
    **{f"without=drift/{part}": ["method=drift"] for part in ("concentration", "prompt_noise", "shaping")},
    "reward=remote": ["reward.url=http://127.0.0.1:8000"],
}


def choices(group):
    files = (CONF / group).glob("**/*.yaml" if group == "without" else "*.yaml")  # a part is its method's
    return sorted(str(file.relative_to(CONF / group).with_suffix("")) for file in files)


@pytest.mark.parametrize("choice", [f"{group}={name}" for group in GROUPS for name in choices(group)])
def test_every_choice_composes(choice, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rdt", choice, *GIVEN.get(choice, []), "--cfg", "job", "--resolve"])
    run.entry()
    cfg = OmegaConf.create(capsys.readouterr().out)
    group, name = choice.split("=")
    assert cfg.get(group, {}).get("name", name) == name
    assert not OmegaConf.missing_keys(cfg)


def test_every_yaml_is_a_choice_of_a_known_group():
    """A file that no test composes would rot."""
    own = {"hydra", "setting"}  # console formats, and values that a model and a method meet in
    assert {folder.name for folder in CONF.iterdir() if folder.is_dir()} <= set(GROUPS) | own
    for file in (CONF / "setting").glob("*.yaml"):
        model, _, method = file.stem.partition("_")
        assert any(file.stem == f"{m}_{k}" for m in choices("model") for k in choices("method")), (model, method)


@pytest.mark.parametrize("method", choices("method"))
def test_every_method_runs_on_the_embedded_model(method, tmp_path):
    work(minimal(tmp_path / "out", "logger=csv", f"method={method}", "batch_size=8"))  # one group
    logged = rows(tmp_path / "out")
    assert [row["iteration"] for row in logged] == ["0", "1"]
    assert all(math.isfinite(float(row["train/reward"])) for row in logged)
    assert (tmp_path / "out" / "result.json").is_file()
