"""Tests the server against clients that misbehave: each gets one line of JSON, and the next one its scores."""

import http.client
import json
import socket
import threading
from urllib.parse import urlsplit

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from rdt.rewards import connections, intake, wire
from rdt.rewards.base import Reward
from rdt.rewards.remote import RemoteReward
from worlds.requests import BODIES, png, pngs
from worlds.scorers import LIMITS, serving
from worlds.tiny_policy import Brightness

PICTURES = torch.rand(2, 3, 24, 20, generator=torch.Generator().manual_seed(0))
BODY = wire.request(PICTURES, ["a", "b"], "float32")
JSON = {"Content-Type": "application/json"}
SETTINGS = {"format": "float32", "batch_size": 2, "parallel": 3, "timeout": 60.0, "retries": 0, "missing": "stop"}


@pytest.fixture(scope="module")
def url():
    with serving(Brightness()) as address:
        yield address


def post(url: str, body: bytes, headers: dict[str, str] = JSON, method: str = "POST") -> tuple[int, dict]:
    """Return the status and the JSON of an answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request(method, "/", body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def raw(url: str, data: bytes = b"") -> socket.socket:
    """Return a connection on which some bytes were sent."""
    host, _, port = urlsplit(url).netloc.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(data)
    return connection


def assert_serves(url: str) -> None:
    """Assert that the next client gets the right scores."""
    scores = RemoteReward(url=url, **SETTINGS)(PICTURES, ["a", "b"])
    assert torch.equal(scores, Brightness()(PICTURES, ["a", "b"]))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODIES)
def test_random_bytes_are_the_client_s_fault(url, body):
    status, answer = post(url, body)
    assert status == 200 or (400 <= status < 500 and answer["error"].isprintable())


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b""),
        (400, b"[" * 50_000),
        (400, b"\xff"),
        (400, pngs(png(65535, 1))),
        (400, pngs(png(20, 24))),
        (413, b"[" * 100_000),
        (413, pngs(png(13000, 13000))),
        (413, b" " * 2_000_001),
        (422, wire.request(2 * PICTURES, ["a", "b"], "float32")),
    ],
)
def test_the_status_says_whose_fault_it_is(url, status, body):
    found, answer = post(url, body)
    assert found == status and answer["error"].isprintable() and len(answer["error"]) <= 200
    assert_serves(url)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_form_of_a_web_page_is_refused(url, kind):
    assert post(url, BODY, {"Content-Type": kind, "Origin": "http://evil.example"})[0] == 415


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", "[", "192.168.0.1"])
def test_a_name_of_another_machine_is_refused_on_loopback(url, host):
    assert post(url, BODY, JSON | {"Host": host})[0] == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.1.2.3:80", "[::1]:8000"])
def test_every_name_of_this_machine_is_accepted_on_loopback(url, host):
    assert post(url, BODY, JSON | {"Host": host})[0] == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_another_method_is_refused(url, method):
    assert post(url, BODY, method=method)[0] == 405


@pytest.mark.parametrize("sent", [None, "Bearer wrong", "Basic right", "right", "Bearer", "Bearer righ\u00e9"])
def test_a_token_is_wanted_before_the_body_is_read(sent):
    headers = JSON | ({"Authorization": sent.encode("latin-1")} if sent else {})
    with serving(Brightness(), token="right", host="0.0.0.0") as url:
        status, answer = post(url, BODY, headers)
        assert status == 401 and "right" not in answer["error"]
        with raw(url, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n") as connection:
            assert connection.recv(12) == b"HTTP/1.1 401"
        named = JSON | {"Authorization": "Bearer right", "Host": "machine.example"}
        assert post(url, BODY, named)[0] == 200


def test_clients_that_send_half_of_a_head_or_a_body_do_not_stop_a_good_one(url):
    half = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n"
    idle = [raw(url, data) for data in (b"", half, half + b"\r\n", half + b"\r\n" + b" " * 50_000) for _ in range(75)]
    try:
        assert_serves(url)
    finally:
        for connection in idle:
            connection.close()
    assert_serves(url)


def closed(connection: socket.socket) -> bool:
    """Wait until the server closes a connection, and return whether it did so without an answer."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_head_that_does_not_end_is_given_up(monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    with serving(Brightness()) as url:
        for data in (b"", b"POST / HTTP/1.1\r\nHost: localhost\r\n"):
            with raw(url, data) as connection:
                assert closed(connection)
        monkeypatch.undo()
        assert_serves(url)


def test_a_body_that_does_not_end_is_given_up(monkeypatch):
    monkeypatch.setattr(intake, "BODY_SECONDS", 0.2)
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    with serving(Brightness()) as url, raw(url, head) as connection:
        assert connection.recv(12) == b"HTTP/1.1 408"


def test_the_oldest_connection_without_a_head_makes_room(monkeypatch):
    monkeypatch.setattr(connections, "MOST", 8)
    with serving(Brightness()) as url:
        idle = [raw(url) for _ in range(20)]
        assert closed(idle[0])
        assert_serves(url)
        for connection in idle:
            connection.close()


def test_the_oldest_body_makes_room_if_memory_is_short():
    part = b" " * 900_000
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 999999\r\n\r\n"
    with serving(Brightness(), bytes=1_000_000) as url:
        slow = [raw(url, head + part) for _ in range(3)]
        assert slow[0].recv(12) == b"HTTP/1.1 503"
        assert_serves(url)
        for connection in slow:
            connection.close()


class Held(Reward):
    """Scores once it is released."""

    def __init__(self):
        super().__init__()
        self.begun, self.released = threading.Semaphore(0), threading.Event()

    def forward(self, images, prompts):
        self.begun.release()
        self.released.wait(60)
        return images.mean((1, 2, 3))


@pytest.mark.parametrize(("limit", "words"), [({"queue": 1}, "requests wait"), ({"seconds": 0.2}, "no scores within")])
def test_a_busy_server_says_when_to_come_again(limit, words):
    reward = Held()
    with serving(reward, **limit) as url:
        first = raw(url, b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                         b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)  # fmt: skip
        assert reward.begun.acquire(timeout=60)
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        connection.request("POST", "/", BODY, JSON)
        answer = connection.getresponse()
        assert (
            answer.status == 503
            and answer.headers["Retry-After"] == "1"
            and words in json.loads(answer.read())["error"]
        )
        reward.released.set()
        for used in (first, connection):
            used.close()


def test_clients_that_hang_up_print_nothing_and_are_not_scored(capfd):
    reward = Held()
    with serving(reward) as url:
        for data in (b"", b"nonsense\r\n\r\n", b"POST / HTTP/1.1\r\nHost: localhost\r\n", b"POST / HTTP/9.9\r\n\r\n"):
            raw(url, data).close()
        head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        clients = [raw(url, head % len(BODY) + BODY) for _ in range(5)]
        assert reward.begun.acquire(timeout=60)
        for connection in clients:
            connection.close()
        reward.released.set()
        assert RemoteReward(url=url, **SETTINGS)(PICTURES, ["a", "b"]).isfinite().all()
    assert capfd.readouterr() == ("", "")


def test_two_hundred_clients_at_once_get_their_scores():
    expected, found = Brightness()(PICTURES, ["a", "b"]), []

    def client() -> None:
        found.append(RemoteReward(url=url, **SETTINGS)(PICTURES, ["a", "b"]))

    with serving(Brightness(), queue=256, bytes=LIMITS["bytes"]) as url:
        threads = [threading.Thread(target=client) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 200 and all(torch.equal(scores, expected) for scores in found)


def test_a_client_of_the_standard_library_keeps_working(url):
    """The first client of this protocol was urllib's."""
    from urllib.request import ProxyHandler, Request, build_opener

    message = Request(url, BODY, JSON, method="POST")
    with build_opener(ProxyHandler({})).open(message, timeout=60) as answer:
        assert len(json.loads(answer.read())["scores"]) == 2
