"""Tests the remote reward against the server and against scorers that misbehave: right scores, or one line."""

import asyncio
import json
import socket
import sys
import threading
import time
from email.utils import formatdate

import pytest
import torch

from rdt import run
from rdt.rewards import client, remote, wire
from rdt.rewards.base import Reward
from rdt.rewards.client import RemoteFailed
from rdt.rewards.jpeg import JpegReward
from rdt.rewards.remote import RemoteReward
from rdt.training.experiment import Experiment
from worlds.scorers import answer, playing, serving
from worlds.smallest_run import minimal
from worlds.tiny_policy import Brightness

PICTURES = torch.rand(7, 3, 24, 20, generator=torch.Generator().manual_seed(0))
PROMPTS = [f"a ring, number {i}" for i in range(7)]
SETTINGS = {"format": "float32", "batch_size": 2, "parallel": 3, "timeout": 60.0, "retries": 2, "missing": "stop"}
SCORES = b'{"scores": [1]}'


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Shorten the pauses between tries."""
    monkeypatch.setattr(client, "PAUSE", 0.01)


def one_score(url: str, **changes) -> float:
    """Return the score of one image."""
    return RemoteReward(url=url, **SETTINGS | changes)(PICTURES[:1], PROMPTS[:1]).item()


def refusal(act, **changes) -> str:
    """Return the message about a scorer that acts so, one line without its URL."""
    with playing(act) as url, pytest.raises(RemoteFailed) as caught:
        one_score(url, **changes)
    message = str(caught.value)
    assert message.startswith(f"reward.url={url}") and message.isprintable() and len(message) < 400
    return message.removeprefix(f"reward.url={url}")


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


def last_digits(connection: socket.socket, body: bytes) -> None:
    """Score each prompt by its last digit; later prompts are answered sooner."""
    prompts = json.loads(body)["prompts"]
    time.sleep(0.02 * (7 - int(prompts[0][-1])))
    connection.sendall(answer(json.dumps({"scores": [int(prompt[-1]) for prompt in prompts]}).encode()))


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_order_is_kept_for_every_batch_size(size):
    with playing(last_digits) as url:
        scores = RemoteReward(url=url, **SETTINGS | {"batch_size": size, "parallel": 7})(PICTURES, PROMPTS)
    assert scores.int().tolist() == list(range(7))


def test_no_more_requests_than_parallel_are_under_way():
    under_way, most, lock, full = 0, 0, threading.Lock(), threading.Event()

    def act(connection, body):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        if under_way == 3:
            full.set()
        full.wait(60)
        time.sleep(0.05)
        with lock:
            under_way -= 1
        connection.sendall(answer(SCORES))

    with playing(act) as url:
        RemoteReward(url=url, **SETTINGS | {"batch_size": 1, "parallel": 3})(PICTURES, PROMPTS)
    assert most == 3


def test_a_request_has_fewer_images_if_they_are_large():
    reward = RemoteReward(url="http://127.0.0.1:1", **SETTINGS | {"batch_size": 64})
    for form, side, size in (("float32", 512, 4), ("float32", 1024, 1), ("png", 1024, 4), ("png", 64, 64)):
        reward.format = form
        assert reward.request_size(torch.empty(1, 3, side, side, device="meta")) == size
        assert side * side * 4 * (4 if form == "float32" else 1) * size <= max(remote.BODY, side * side * 16)


def test_scores_come_from_a_notebook_too():
    """A notebook runs a loop in the thread that calls the reward."""

    async def cell() -> torch.Tensor:
        return RemoteReward(url=url, **SETTINGS)(PICTURES, PROMPTS)

    with serving(Brightness()) as url:
        assert torch.equal(asyncio.run(cell()), Brightness()(PICTURES, PROMPTS))
    with pytest.raises(RemoteFailed, match="gave no scores"):
        asyncio.run(cell())


# connections that break


def acting(*acts):
    """Return what a scorer does that acts in turn, and by the last for ever."""
    calls = []

    def act(connection, body):
        calls.append(body)
        acts[min(len(calls), len(acts)) - 1](connection, body)

    return act, calls


def sends(*parts: bytes):
    """Return what a scorer does that sends these bytes."""
    return lambda connection, body: [connection.sendall(part) for part in parts]


def hangs(connection, body):
    connection.recv(1)  # until the client gives up


def drips(connection, body):
    for _ in range(1000):
        connection.sendall(b" ")
        time.sleep(0.02)


def starts(status: bytes, then):
    """Return what a scorer does that sends a head without a length, and then acts."""

    def act(connection, body):
        connection.sendall(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\n\r\n")
        then(connection, body)

    return act


def drips_in_its_head(connection, body):
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    drips(connection, body)


DEADLINES: list[tuple[asyncio.AbstractEventLoop, asyncio.Timeout]] = []  # of the client's tries, in order


@pytest.fixture
def deadlines(monkeypatch):
    """Keep the deadlines of the client, so that a scorer can let one pass however loaded the machine is."""
    timeout = asyncio.timeout

    def kept(seconds):
        DEADLINES.append((asyncio.get_running_loop(), timeout(seconds)))
        return DEADLINES[-1][1]

    monkeypatch.setattr(client.asyncio, "timeout", kept)
    yield
    DEADLINES.clear()


def timed_out(act):
    """Return what a scorer does that acts and lets the client's deadline pass meanwhile."""

    def late(connection, body):
        loop, deadline = DEADLINES[-1]
        loop.call_soon_threadsafe(deadline.reschedule, loop.time() + 0.1)
        act(connection, body)

    return late


RIGHT = sends(answer(SCORES))
HANGING = [
    starts(b"200 OK", hangs), starts(b"503 Service Unavailable", hangs), starts(b"200 OK", drips),
    drips_in_its_head, hangs,
]  # fmt: skip
SHORT = b"HTTP/1.1 %s\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{"


@pytest.mark.parametrize(
    "failure",
    [
        sends(),
        sends(b"nonsense\r\n\r\n"),
        sends(SHORT % b"200 OK"),
        sends(SHORT % b"503 Service Unavailable"),
        sends(answer(b"{", "500 Internal Server Error")),
        sends(answer(b'{"error": "slow down"}', "429 Too Many Requests", "Retry-After: 0")),
        sends(answer(b'{"error": "late"}', "408 Request Timeout")),
        *(timed_out(act) for act in HANGING),
    ],
)
def test_what_may_pass_is_tried_again_a_limited_number_of_times(failure, deadlines):
    act, calls = acting(failure, failure, RIGHT)
    with playing(act) as url:
        assert one_score(url) == 1 and len(calls) == 3 and len(set(calls)) == 1
        del calls[:]
        with pytest.raises(RemoteFailed, match=f"^reward.url={url} gave no scores in 2 tries: ."):
            one_score(url, retries=1)


@pytest.mark.parametrize("act", HANGING)
def test_the_timeout_is_that_of_the_whole_answer(act):
    assert refusal(act, timeout=0.2, retries=0) == " gave no scores in 1 tries: no answer within reward.timeout=0.2 s"


def test_an_absent_server_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    with pytest.raises(RemoteFailed, match="gave no scores in 3 tries: Connection refused"):
        one_score(url)


@pytest.mark.parametrize("asked", ["1", "date", "soon", "-5"])
def test_a_pause_that_the_scorer_asks_for_is_kept(asked, monkeypatch):
    pauses, sleep = [], client.asyncio.sleep
    pause = formatdate(time.time() + 200, usegmt=True) if asked == "date" else asked

    async def recorded(seconds):
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(client.asyncio, "sleep", recorded)
    act, _ = acting(sends(answer(b"{}", "503 Service Unavailable", f"Retry-After: {pause}")), RIGHT)
    with playing(act) as url:
        assert one_score(url) == 1
    paused = max(pauses)
    assert paused == 0.01 if asked in ("soon", "-5") else 0.01 < paused <= 200


def test_a_pause_of_an_hour_ends_the_run():
    message = refusal(sends(answer(b"{}", "503 Service Unavailable", "Retry-After: 3600")))
    assert "asks to wait 3600 s, more than 300 s: 503 Service Unavailable" in message


# answers that are no scores


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[" * 60_000, "this is not JSON"),
        (b'{"scores": [1' + b"0" * 400 + b"]}", "beyond what a float holds"),
        (b'{"scores": [1' + b"0" * 5000 + b"]}", "this is not JSON"),
        (b'{"scores": [[[1]]]}', "has the score a list"),
        (b'{"scores": ["\\u001b]0;title\\u0007"]}', "has the score '"),
        (b"\xff\xfe\xfa", "this is not JSON"),
        (b"", "this is not JSON"),
        (b" " * 100_000 + SCORES, "the answer has more than the 65600 bytes that its scores may have"),
    ],
)
def test_an_answer_that_is_no_scores_is_one_line_at_once(body, words):
    act, calls = acting(sends(answer(body)))
    assert words in refusal(act) and len(calls) == 1


def test_an_answer_without_an_end_is_read_up_to_its_limit():
    def endless(connection, body):
        sent = 0
        while sent < 1 << 30:
            connection.sendall(b" " * (1 << 16))
            sent += 1 << 16
        raise AssertionError("a gigabyte was read")

    assert "the answer has more than the 65600 bytes" in refusal(starts(b"200 OK", endless))
    assert "500 Internal Server Error" in refusal(starts(b"500 Internal Server Error", endless), retries=0)


def test_a_compressed_answer_is_not_taken():
    import gzip

    body = gzip.compress(b" " * 10_000_000 + SCORES)
    assert "this is not JSON" in refusal(sends(answer(body, "200 OK", "Content-Encoding: gzip")))


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
@pytest.mark.parametrize("scheme", ["http", "ftp", "file", "gopher"])
def test_a_redirect_is_not_followed(status, scheme):
    act, calls = acting(sends(answer(b"", status, f"Location: {scheme}://127.0.0.1:1/steal")))
    message = refusal(act)
    assert len(calls) == 1 and status[:3] in message
    assert f"the new address {scheme}://127.0.0.1:1/steal; redirects are not followed" in message


def test_the_words_of_a_scorer_are_printable_and_short():
    text = json.dumps({"error": "\x1b]0;title\x07\u202e\n" + "x" * 3000})
    message = refusal(sends(answer(text.encode(), "400 Bad Request")))
    assert r"refused the request: 400 \x1b]0;title\x07\u202e xx" in message
    assert message.endswith("xxx …") and len(message) < 260


# the machine's proxy, and credentials


def test_a_scorer_on_this_machine_is_reached_without_a_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with playing(RIGHT) as url:
        assert one_score(url) == 1 and one_score(url.replace("127.0.0.1", "localhost")) == 1


def test_another_scorer_is_reached_by_the_proxy_and_messages_say_so(monkeypatch):
    monkeypatch.delenv("no_proxy", raising=False)
    with playing(RIGHT) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        assert one_score("http://scorer.invalid/") == 1
    address = proxy.removeprefix("http://")
    monkeypatch.setenv("http_proxy", f"http://someone:hidden@{address}")
    with pytest.raises(RemoteFailed) as caught:
        one_score("http://scorer.invalid/", retries=0)
    expected = f"reward.url=http://scorer.invalid/ (by the proxy http://{address} of the environment) gave no scores"
    assert str(caught.value).startswith(expected)
    monkeypatch.setenv("no_proxy", "scorer.invalid")
    with pytest.raises(RemoteFailed, match=r"scorer\.invalid/ gave no scores"):
        one_score("http://scorer.invalid/", retries=0)


def test_the_token_of_the_environment_is_sent_and_missed(monkeypatch):
    with serving(Brightness(), token="open-sesame") as url:
        with pytest.raises(RemoteFailed, match=r"refused the request: 401 .* set RDT_TOKEN in the environment"):
            one_score(url)
        monkeypatch.setenv("RDT_TOKEN", "open-sesame")
        assert one_score(url) == Brightness()(PICTURES[:1], PROMPTS[:1]).item()
    monkeypatch.setenv("RDT_TOKEN", "two words")
    with pytest.raises(ValueError, match=r"^RDT_TOKEN of the environment has blanks") as caught:
        one_score(url)
    assert "words" not in str(caught.value)


SECRETS = (
    "http://user:hidden@host/", "http://hidden@host/", "http://host/?key=hidden", "http://host/?a=1&api_key=hidden",
    "http://host/#access_token=hidden", "https://host/score?X-Amz-Signature=hidden",
)  # fmt: skip


@pytest.mark.parametrize("url", SECRETS)
@pytest.mark.parametrize(
    "key", ["reward.url", "+evaluation.judges.far.url", "+reward.headers.Authorization", "+reward.token"]
)
@pytest.mark.parametrize("more", [["dry_run=true"], ["-m"]])
def test_a_secret_on_the_command_line_is_neither_shown_nor_written(url, key, more, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rdt", "method=grpo", "reward=remote", f"{key}={url}", *more])
    with pytest.raises(SystemExit) as stop:
        run.entry()
    out, err = capsys.readouterr()
    assert stop.value.code == 1 and err.count("\n") == 1 and "RDT_TOKEN in the environment" in err
    assert "hidden" not in out + err and not list(tmp_path.rglob("*"))


def test_a_secret_in_a_config_file_is_neither_shown_nor_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "conf" / "reward").mkdir(parents=True)
    (tmp_path / "conf" / "reward" / "far.yaml").write_text("defaults: [remote]\nurl: http://user:hidden@host/\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rdt", "--config-dir", "conf", "method=grpo", "reward=far", "output_dir=out"])
    with pytest.raises(SystemExit):
        run.entry()
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "reward.url holds a user name or a password in an address" in err
    assert "hidden" not in out + err and not (tmp_path / "out").exists()


def test_a_plain_parameter_of_the_url_is_kept():
    reward = RemoteReward(url="http://127.0.0.1:1/score?model=a", **SETTINGS)
    assert reward.endpoint.url.endswith("?model=a")


# errors of the server, and what no scorer can score


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
        (ValueError("too small"), 1, "refused the request: 422 too small"),
    ):
        reward = Failing(error)
        with serving(reward) as url, pytest.raises(RemoteFailed, match=words):
            one_score(url)
        assert reward.calls == calls


def test_an_image_that_is_not_finite_has_no_finite_score():
    broken = PICTURES.clone()
    broken[2, 1, 3, 4] = torch.nan
    with serving(Brightness()) as url:
        for form in wire.FORMATS:
            scores = RemoteReward(url=url, **SETTINGS | {"format": form})(broken, PROMPTS)
            assert scores.isfinite().tolist() == [i != 2 for i in range(7)]


@pytest.mark.parametrize(
    "change",
    [
        {"url": "file:///etc/passwd"}, {"url": "host:80"}, {"url": "http://"}, {"format": "gif"}, {"batch_size": 0},
        {"timeout": 0.0}, {"missing": "ignore"},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(change):
    with pytest.raises(ValueError, match=r"reward\."):
        RemoteReward(**{"url": "http://127.0.0.1:1"} | SETTINGS | change)


def test_a_run_without_a_url_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rdt", "method=grpo", "reward=remote", "dry_run=true"])
    with pytest.raises(SystemExit):
        run.entry()
    assert "reward.url=??? has no default" in capsys.readouterr().err
