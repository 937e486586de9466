"""Judges are chosen by name, on every model; a panel is judged by what is here and was not trained on."""

import pytest
import torch
from omegaconf import OmegaConf

from rdt import run
from rdt.config import judges
from rdt.config.compose import composed
from rdt.errors import UsageError
from rdt.result import read
from rdt.rewards.clip import clipscore
from rdt.training.constraints import check_constraints
from rdt.training.experiment import Experiment
from rdt.training.launch import work
from worlds import reward_checkpoints
from worlds.smallest_run import minimal

PANEL = ["aesthetic", "clipscore", "hps", "imagereward", "pickscore"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return, by reward, the overrides that name tiny checkpoints in the published formats."""
    return reward_checkpoints.write(tmp_path_factory.mktemp("rewards"))


def resolved(*overrides):
    cfg = composed("config", *overrides)
    OmegaConf.resolve(cfg)
    return cfg


def settled(*overrides):
    """Return the names of the judges of a config, and the notes about those that are left out."""
    cfg = resolved(*overrides)
    notes = judges.settle_panel(cfg)
    return list(cfg.evaluation.judges), notes


def checkpoints(files, *names):
    return [override for name in names for override in files[name]]


@pytest.mark.parametrize("model", ["shapes", "sd15", "flux"])
def test_a_list_of_names_replaces_the_judges_of_the_world(model):
    assert settled(f"model={model}", "judges=[jpeg,gold]") == (["jpeg", "gold"], [])
    assert settled(f"model={model}", "judges=[]") == ([], [])
    assert settled("judges=[judge,jpeg]", "evaluation.judges.judge=null")[0] == ["judge", "jpeg"]


def test_a_real_model_is_judged_by_what_is_here_and_a_note_says_what_to_fetch(files, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    names, notes = settled("model=sd15", "reward=jpeg", *checkpoints(files, "aesthetic", "clipscore"))
    assert names == ["aesthetic", "clipscore"]
    assert [note.split()[1] for note in notes] == ["hps", "imagereward", "pickscore"]
    assert "hf download THUDM/ImageReward ImageReward.pt" in notes[1]


@pytest.mark.parametrize(
    "reward, left",
    [
        (["reward=pickscore"], ["aesthetic", "clipscore", "imagereward"]),
        (["reward=clipscore", "reward.name=mine"], ["aesthetic", "imagereward", "pickscore"]),
        (
            ["reward=mixture", "~reward.parts.hps", "+reward@reward.parts.a=aesthetic"],
            ["clipscore", "imagereward", "pickscore"],
        ),
    ],
)
def test_what_is_trained_on_is_no_judge_of_the_panel(files, reward, left):
    given = checkpoints(files, "aesthetic", "clipscore", "imagereward", "pickscore")
    names, notes = settled("model=sd15", "judges=[published]", *reward, *given)
    assert names == left
    assert [note.split()[1] for note in notes] == ["hps"]


def test_a_folder_of_the_hub_without_weights_is_not_here(tmp_path, monkeypatch):
    from rdt import weights

    folder = tmp_path / "models--openai--clip" / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text("{}")
    refs = tmp_path / "models--openai--clip" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert weights.to_fetch("hub:openai/clip", False) is None
    assert "hf download openai/clip" in weights.to_fetch("hub:openai/clip", True)
    (folder / "model.safetensors").write_bytes(b"")
    assert weights.to_fetch("hub:openai/clip", True) is None


def test_a_judge_with_the_name_of_another_reward_is_refused(answered, tmp_path):
    words = ["+reward@evaluation.judges.hps=jpeg", "dry_run=true", f"output_dir={tmp_path / 'out'}"]
    status, _, err = answered(run.entry, *words)
    assert status and "evaluation.judges.hps is another reward than the hps that is trained on" in err


def test_the_gap_compares_with_the_first_unseen_judge():
    bound = ["constraint.gap.max=0.1", "evaluation.every=1"]
    assert judges.compared_judge(resolved(*bound)) == "judge"
    assert judges.compared_judge(resolved("model=sd15", "judges=[hps,jpeg]", *bound)) == "jpeg"
    with pytest.raises(UsageError, match=r"needs a judge that is not trained on.*judges=\[imagereward\]"):
        check_constraints(resolved("model=sd15", "judges=[hps]", *bound))


def test_a_run_reports_its_judges_as_unseen_and_their_scores_are_the_rewards_own(files, tmp_path):
    given = checkpoints(files, "aesthetic", "clipscore", "imagereward", "pickscore")
    cfg = minimal(
        tmp_path / "out", "logger=csv", "reward=hps", "judges=[imagereward,pickscore,clipscore,aesthetic,hps]", *given
    )
    work(cfg)
    found = read(tmp_path / "out")
    unseen = dict.fromkeys(("imagereward", "pickscore", "clipscore", "aesthetic"), "unseen")
    assert found.roles() == {"hps": "trained on"} | unseen
    card = (tmp_path / "out" / "lora" / "README.md").read_text()
    assert "Trained on: `hps`. Unseen judges: `imagereward`, `pickscore`, `clipscore`, `aesthetic`." in card
    rewards, clip = Experiment(cfg).rewards, cfg.evaluation.judges.clipscore.weights
    images = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    own = clipscore(weights=OmegaConf.to_container(clip), scaled=False)(images, ["a", "b", "a"])
    assert torch.equal(rewards["clipscore"](images, ["a", "b", "a"]), own)
    assert rewards["clipscore"].tower is rewards["aesthetic"].tower is rewards["pickscore"].tower
