"""Every choice in conf/ composes, and every method runs two iterations on the embedded model."""

import math
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rdt import run
from rdt.config.compose import composed, conf_dir
from rdt.config.plan import leaves
from rdt.training.launch import work
from worlds.smallest_run import minimal, rows

CONF = Path(conf_dir())
GROUPS = (
    "method", "reward", "world", "model", "guidance", "prompts", "diversity", "evaluation", "sweep", "logger",
    "experiment", "without", "judges",
)  # fmt: skip
LISTED = "judges"  # a group that is chosen as a list
GIVEN = {
    "prompts=file": ["prompts.train_file=train.txt", "prompts.held_out_file=held_out.txt"],
    "prompts=list": ["prompts.file=list.txt"],
    "judges=[remote]": ["evaluation.judges.remote.url=http://127.0.0.1:8000"],
    "prompts=hub": ["prompts.data=dataset:owner/name:prompts.jsonl", "prompts.key=prompt"],
    **{f"without=drift/{part}": ["method=drift"] for part in ("concentration", "prompt_noise", "shaping")},
    "reward=remote": ["reward.url=http://127.0.0.1:8000"],
}


def choices(group):
    files = (CONF / group).glob("**/*.yaml" if group == "without" else "*.yaml")  # without/<method>/<part>.yaml
    return sorted(str(file.relative_to(CONF / group).with_suffix("")) for file in files)


def typed(group, name):
    """Return a choice as it is typed."""
    return f"{group}=[{name}]" if group == LISTED else f"{group}={name}"


@pytest.mark.parametrize("choice", [typed(group, name) for group in GROUPS for name in choices(group)])
def test_every_choice_composes(choice, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rdt", choice, *GIVEN.get(choice, []), "--cfg", "job", "--resolve"])
    run.entry()
    cfg = OmegaConf.create(capsys.readouterr().out)
    group, name = choice.split("=")
    assert cfg.get(group, {}).get("name", name) == name
    assert not OmegaConf.missing_keys(cfg)


def test_every_yaml_is_a_choice_of_a_known_group():
    """Every folder of conf/ is tested here, but for console formats and tuned values."""
    assert {folder.name for folder in CONF.iterdir() if folder.is_dir()} == {*GROUPS, "hydra", "tuned"}


@pytest.mark.parametrize("file", sorted((CONF / "tuned").glob("**/*.yaml")), ids=lambda file: file.stem)
def test_tuned_values_belong_to_a_method_and_change_what_it_composes(file):
    """conf/tuned/<method>/<world>.yaml or conf/tuned/<method>/model/<model>.yaml; each key of it has an effect."""
    method, *kind, name = file.relative_to(CONF / "tuned").with_suffix("").parts
    assert method in choices("method") and name in choices(kind[0] if kind else "world")
    model = name if kind else {"shapes": "shapes", "real": "sd15"}[name]
    cfg = composed("config", f"method={method}", f"model={model}")
    stated = dict(leaves(OmegaConf.load(file)))
    assert stated
    for key, value in stated.items():
        assert OmegaConf.select(cfg, key) == value, key


@pytest.mark.parametrize("model", choices("model"))
def test_a_reward_is_served_with_the_checkpoints_of_every_model(model):
    cfg = composed("serve", f"model={model}", "reward=hps")
    assert cfg.reward.weights.checkpoint == cfg.model.checkpoints.hps.checkpoint


@pytest.mark.parametrize("model", choices("model"))
def test_every_reward_composes_with_every_model_for_a_run_and_for_the_server(model):
    for reward in choices("reward"):
        for command in ("config", "serve"):
            cfg = composed(command, f"model={model}", f"reward={reward}", *GIVEN.get(f"reward={reward}", []))
            OmegaConf.resolve(cfg.reward)
            assert cfg.reward.name == reward and not OmegaConf.missing_keys(cfg.reward)


@pytest.mark.parametrize("command", ["evaluate", "sample"])
@pytest.mark.parametrize("guidance", choices("guidance"))
def test_every_guidance_composes_for_a_finished_run(command, guidance):
    assert composed(command, f"guidance={guidance}").guidance.name == guidance


@pytest.mark.parametrize("method", choices("method"))
def test_every_method_runs_on_the_embedded_model(method, tmp_path):
    work(minimal(tmp_path / "out", "logger=csv", f"method={method}", "batch_size=8"))  # one group
    logged = rows(tmp_path / "out")
    assert [row["iteration"] for row in logged] == ["0", "1"]
    assert all(math.isfinite(float(row["train/reward"])) for row in logged)
    assert (tmp_path / "out" / "result.json").is_file()
