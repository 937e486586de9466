"""Tests the remote reward and its server: same scores, same order, and errors of a connection that breaks."""

import json
import socket
import sys
import threading
import time
from contextlib import contextmanager

import pytest
import torch
from omegaconf import OmegaConf

from rdt import run
from rdt.rewards import remote
from rdt.rewards.base import Reward
from rdt.rewards.jpeg import JpegReward
from rdt.rewards.remote import RemoteFailed, RemoteReward
from rdt.rewards.server import Server
from rdt.training.experiment import Experiment
from worlds.smallest_run import minimal
from worlds.tiny_policy import Brightness

PICTURES = torch.rand(7, 3, 24, 20, generator=torch.Generator().manual_seed(0))
PROMPTS = [f"a ring, number {i}" for i in range(7)]
SETTINGS = {"format": "float32", "batch_size": 2, "parallel": 3, "timeout": 5.0, "retries": 2}


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """Bypass the machine's proxy and shorten the pauses between tries."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(remote, "PAUSE", 0.01)


@contextmanager
def serving(reward: Reward, kind=Server):
    """Serve a reward and yield its URL."""
    made = kind(reward, "cpu", "127.0.0.1", 0)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_address[1]}"
    finally:
        made.shutdown()
        made.server_close()
        thread.join()


class LastDigit(Reward):
    """Scores the prompt's last digit plus the brightness; later prompts are answered sooner."""

    def forward(self, images, prompts):
        time.sleep(0.02 * (7 - int(prompts[0][-1])))
        return images.mean((1, 2, 3)) + torch.tensor([float(prompt[-1]) for prompt in prompts])


class Concurrent(Server):
    """Scores several requests at a time, so that a later one may be answered first."""

    def scores(self, images, prompts):
        return self.reward(images, prompts)


class Dropping(Server):
    """Closes the first two connections without an answer."""

    dropped = 0

    def process_request(self, request, address):
        type(self).dropped += 1
        if self.dropped > 2:
            return super().process_request(request, address)
        return self.shutdown_request(request)


@pytest.mark.parametrize("reward", [Brightness(), JpegReward(quality=95, incompressible=False)], ids=str)
def test_remote_scores_are_the_local_scores(reward):
    with serving(reward) as url:
        assert torch.equal(RemoteReward(url=url, **SETTINGS)(PICTURES, PROMPTS), reward(PICTURES, PROMPTS))
        coarse = RemoteReward(url=url, **SETTINGS | {"format": "png"})(PICTURES, PROMPTS)
    assert torch.equal(coarse, reward((PICTURES * 255).round() / 255, PROMPTS))


def test_a_served_clip_reward_is_the_local_one(tmp_path):
    local = Experiment(minimal(tmp_path / "never", "reward=hps")).reward
    with serving(local) as url:
        far = RemoteReward(url=url, **SETTINGS)(PICTURES, PROMPTS)
    assert torch.allclose(far, local(PICTURES, PROMPTS), atol=1e-6) and far.std() > 0


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_order_is_kept_for_every_batch_size(size):
    with serving(LastDigit(), Concurrent) as url:
        scores = RemoteReward(url=url, **SETTINGS | {"batch_size": size, "parallel": 7})(PICTURES, PROMPTS)
    assert scores.int().tolist() == list(range(7))


def test_a_dropped_connection_is_tried_again_a_limited_number_of_times():
    Dropping.dropped = 0
    with serving(Brightness(), Dropping) as url:
        one = RemoteReward(url=url, **SETTINGS | {"parallel": 1, "batch_size": 7})
        assert torch.equal(one(PICTURES, PROMPTS), Brightness()(PICTURES, PROMPTS))
        Dropping.dropped = 0
        with pytest.raises(RemoteFailed, match="gave no scores in 2 tries"):
            RemoteReward(url=url, **SETTINGS | {"parallel": 1, "batch_size": 7, "retries": 1})(PICTURES, PROMPTS)


def test_a_silent_or_absent_server_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(RemoteFailed) as caught:
            RemoteReward(url=url, **SETTINGS | {"timeout": 0.1, "retries": 1})(PICTURES[:1], PROMPTS[:1])
        assert time.monotonic() - began < 2
    assert str(caught.value) == f"reward.url={url} gave no scores in 2 tries: no answer within reward.timeout=0.1 s"
    with pytest.raises(RemoteFailed, match="Connection refused"):
        RemoteReward(url=url, **SETTINGS)(PICTURES[:1], PROMPTS[:1])


class Failing(Reward):
    """Raises an error at every call."""

    def __init__(self, error):
        super().__init__()
        self.error, self.calls = error, 0

    def forward(self, images, prompts):
        self.calls += 1
        raise self.error


def test_the_error_of_the_server_is_passed_on():
    for error, calls, words in (
        (RuntimeError("out of memory"), 3, "3 tries: 500 RuntimeError: out of memory"),
        (ValueError("too small"), 1, "refused the request: 400 too small"),
    ):
        reward = Failing(error)
        with serving(reward) as url, pytest.raises(RemoteFailed, match=words):
            RemoteReward(url=url, **SETTINGS)(PICTURES[:1], PROMPTS[:1])
        assert reward.calls == calls


def test_an_image_that_is_not_finite_has_no_finite_score():
    broken = PICTURES.clone()
    broken[2, 1, 3, 4] = torch.nan
    with serving(Brightness()) as url:
        for form in remote.FORMATS:
            scores = RemoteReward(url=url, **SETTINGS | {"format": form})(broken, PROMPTS)
            assert scores.isfinite().tolist() == [i != 2 for i in range(7)]


@pytest.mark.parametrize(
    "answer",
    [b"hello", b"[]", b'{"scores": [1]}', b'{"scores": [1, "a"]}', b'{"scores": [1, true]}', b'{"result": [1, 2]}'],
)
def test_a_malformed_answer_is_one_line(answer):
    with pytest.raises(ValueError) as caught:
        remote.replied(answer, 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", remote.FORMATS)
def test_a_request_is_read_as_it_was_written(form):
    images, prompts = remote.requested(remote.request(PICTURES, PROMPTS, form))
    assert prompts == PROMPTS and (images - PICTURES).abs().max() <= (0 if form == "float32" else 0.5 / 255 + 1e-6)


@pytest.mark.parametrize(
    "change",
    [{"format": "gif"}, {"images": ["AAAA"]}, {"prompts": ["one"]}, {"prompts": 3}, {"shape": [3, 2]}, {"images": []}],
)
def test_a_malformed_request_is_refused(change):
    content = json.loads(remote.request(PICTURES, PROMPTS, "float32"))
    with pytest.raises(ValueError):
        remote.requested(json.dumps(content | change).encode())


def test_the_server_explains_a_wrong_request(monkeypatch):
    monkeypatch.setattr(remote, "request", lambda *_: b"{}")
    with serving(Brightness()) as url, pytest.raises(RemoteFailed, match="refused the request: 400 format=None"):
        RemoteReward(url=url, **SETTINGS)(PICTURES[:1], PROMPTS[:1])


@pytest.mark.parametrize(
    "change",
    [{"url": "file:///etc/passwd"}, {"url": "host:80"}, {"format": "gif"}, {"batch_size": 0}, {"timeout": 0.0}],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(ValueError, match=r"reward\."):
        RemoteReward(**{"url": "http://127.0.0.1:1"} | SETTINGS | change)


def test_the_command_serves_the_reward_of_the_config(tmp_path):
    from rdt import serve
    from rdt.config.compose import composed

    cfg = composed("serve", "reward=hps", "port=0", "device=cpu")
    OmegaConf.resolve(cfg.reward)
    made = serve.server(cfg)
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"http://127.0.0.1:{made.server_address[1]}"
    given = minimal(tmp_path / "never", "reward=remote", f"reward.url={url}", "reward.format=float32")
    far = Experiment(given).reward
    near = Experiment(minimal(tmp_path / "never", "reward=hps")).reward
    assert torch.allclose(far(PICTURES, PROMPTS), near(PICTURES, PROMPTS), atol=1e-6)
    cfg.port = made.server_address[1]
    with pytest.raises(ValueError, match=f"cannot listen on host=127.0.0.1 port={cfg.port}"):
        serve.server(cfg)
    made.shutdown()
    made.server_close()


def test_a_run_without_a_url_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rdt", "reward=remote", "dry_run=true"])
    with pytest.raises(SystemExit):
        run.entry()
    assert "reward.url=??? has no default" in capsys.readouterr().err
