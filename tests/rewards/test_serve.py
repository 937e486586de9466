"""Tests the command `rdt serve` itself: every reward with every model's offer of checkpoints answers a request."""

import os
import re
import signal
import sys
import threading
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from rdt import serve
from rdt.config.compose import composed, conf_dir
from rdt.rewards.remote import RemoteReward
from rdt.training.experiment import Experiment
from worlds import children, reward_checkpoints
from worlds.scorers import serving
from worlds.smallest_run import minimal
from worlds.tiny_policy import Brightness

CONF = Path(conf_dir())
REWARDS = sorted(file.stem for file in (CONF / "reward").glob("*.yaml"))
MODELS = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))
REAL = [name for name in MODELS if "override /world: real" in (CONF / "model" / f"{name}.yaml").read_text()]
PICTURES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a red circle", "a small blue ring on white"]
SETTINGS = {"format": "float32", "batch_size": 2, "parallel": 1, "timeout": 60.0, "retries": 0, "missing": "stop"}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Yield, by reward, the overrides that name tiny files in place of published ones."""
    folder = tmp_path_factory.mktemp("published")
    files = reward_checkpoints.write(folder)
    hps = [item.replace("hps_v2.", "hps.") for item in files["hps_v2"]]
    with serving(Brightness()) as url:
        yield files | {"remote": [f"reward.url={url}"], "hps": hps, "mixture": hps}


def refused(monkeypatch, capsys, *overrides: str) -> str:
    """Return the one line with which the command refuses to serve."""
    monkeypatch.setattr(sys, "argv", ["rdt serve", "port=0", *overrides])
    with pytest.raises(SystemExit) as stop:
        serve.entry()
    out, err = capsys.readouterr()
    assert stop.value.code == 1 and out == "" and err.count("\n") == 1
    return err


def answers(monkeypatch, capsys, *overrides: str) -> torch.Tensor:
    """Return the scores that the running command gives before it is interrupted."""
    monkeypatch.setattr(sys, "argv", ["rdt serve", "port=0", "device=cpu", *overrides])
    found: list[torch.Tensor] = []

    def client(shown: str = "") -> None:
        def served() -> bool:
            nonlocal shown
            shown += capsys.readouterr().out
            return "until Ctrl-C" in shown

        try:
            children.until(served)
            url = re.search(r"http://\S+", shown)[0]
            found.append(RemoteReward(url=url, **SETTINGS)(PICTURES, PROMPTS))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=client, daemon=True)
    thread.start()
    with pytest.raises(SystemExit) as stop:
        serve.entry()
    assert stop.value.code == 130
    thread.join()
    return found[0]


def pair(reward: str, model: str):
    """Return the case of a reward and a model; models that share an offer are slow but for one of them."""
    return pytest.param(reward, model, marks=[pytest.mark.slow] * (model not in ("shapes", "sd15") and reward != "hps"))


@pytest.mark.parametrize(("reward", "model"), [pair(reward, model) for reward in REWARDS for model in MODELS])
def test_every_reward_is_served_with_the_offer_of_every_model(reward, model, given, monkeypatch, capsys):
    """A model's offer are the keys of its `model.checkpoints`; one without an entry names the models that have it."""
    offer = composed("serve", f"model={model}").model.checkpoints
    needs = OmegaConf.to_container(OmegaConf.load(CONF / "reward" / f"{reward}.yaml"))
    if "weights" not in needs or reward in offer:
        bundled = model not in REAL and reward in ("hps", "mixture")
        scores = answers(
            monkeypatch, capsys, f"reward={reward}", f"model={model}", *([] if bundled else given.get(reward, []))
        )
        assert scores.shape == (2,) and scores.isfinite().all()
    else:
        line = refused(monkeypatch, capsys, f"reward={reward}", f"model={model}")
        assert f"model={model} has no checkpoint for {reward}: " in line
        assert all(f"model={name} " in line.replace(",", " ") for name in REAL)


def test_the_served_reward_is_that_of_a_run(tmp_path, monkeypatch, capsys):
    near = Experiment(minimal(tmp_path / "never", "reward=hps")).reward
    assert torch.allclose(answers(monkeypatch, capsys, "reward=hps"), near(PICTURES, PROMPTS), atol=1e-6)


@pytest.mark.parametrize("command", [["-m", "rdt.serve"], ["-m", "rdt.cli", "serve"]])
def test_the_command_serves_from_any_folder(command, tmp_path):
    code = ["-c", "from rdt.cli import main; main()", "serve"] if "rdt.cli" in command else command
    environment = os.environ | {"PYTHONPATH": str(CONF.parent)}
    with children.started([sys.executable, *code, "reward=jpeg", "port=0"], cwd=tmp_path, env=environment) as process:
        url = re.search(r"http://\S+", process.stdout.readline())[0]
        assert RemoteReward(url=url, **SETTINGS)(PICTURES, PROMPTS).isfinite().all()
        process.terminate()
        process.wait(children.PATIENCE)
    assert not list(tmp_path.iterdir())


def test_an_address_that_cannot_be_used_is_one_line(monkeypatch, capsys):
    with serving(Brightness()) as url:
        port = url.rpartition(":")[2]
        line = refused(monkeypatch, capsys, "reward=jpeg", f"port={port}")
        assert f"cannot listen on host=127.0.0.1 port={port}: Address already in use" in line
    assert "port=70000 must be from 0 to 65535" in refused(monkeypatch, capsys, "reward=jpeg", "port=70000")
    monkeypatch.setenv("RDT_TOKEN", "secret")
    assert "cannot listen on host=nowhere.invalid" in refused(
        monkeypatch, capsys, "reward=jpeg", "host=nowhere.invalid"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "machine.example"])
def test_other_machines_need_a_token(host, monkeypatch, capsys):
    monkeypatch.delenv("RDT_TOKEN", raising=False)
    line = refused(monkeypatch, capsys, "reward=jpeg", f"host='{host}'")
    assert f"host={host} accepts connections from other machines" in line and "RDT_TOKEN" in line
