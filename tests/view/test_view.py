"""`rdt view`: it lists runs, follows them while they train, and nothing in a folder of a stranger is executed."""

import json
import os
import socket
import threading
import urllib.error
import urllib.request
from html import unescape

import pytest
from PIL import Image

from rdt.view import __main__ as command
from rdt.view.server import ViewServer
from rdt.view.state import Folder, is_running
from worlds.browser import Chromium, installed
from worlds.html_page import HtmlPage
from worlds.run_folders import write_records, write_run

browsed = pytest.mark.skipif(installed() is None, reason="no Chromium here")
EVIL = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def served(tmp_path):
    """Return a function that starts the server over a folder and returns its address."""
    servers = []

    def start(root):
        server = ViewServer(root, 0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server.address

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def got(address, **headers):
    """Return status, headers and body of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def training(folder, rows=3, iterations=40):
    """Write what a run of this process leaves while it trains: its config, its lock, and rows of metrics."""
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    config = {"method": {"name": "draft"}, "reward": {"name": "hps"}, "iterations": iterations, "overrides": ["a=b"]}
    (folder / "config.yaml").write_text(json.dumps(config))
    (folder / ".lock").write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
    lines = [f"{k},{0.1 + 0.01 * k}" for k in range(rows)]
    (folder / "metrics.csv").write_text("\n".join(["iteration,train/reward", *lines]) + "\n")


def test_runs_are_listed_with_their_state_and_scores(tmp_path):
    write_run(tmp_path / "done", overrides=["method.kl_coef=1"])
    training(tmp_path / "now")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "result.json").write_text("{")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "error.txt").write_text("out of memory\n")
    shown = {one.shown["title"]: one.shown for one in Folder(tmp_path).runs().values()}
    assert {title: row["status"] for title, row in shown.items()} == {
        "bad": "failed", "done": "finished", "now": "running", "old": "failed",
    }  # fmt: skip
    assert "result.json is corrupt" in shown["bad"]["note"] and shown["old"]["note"] == "out of memory"
    assert shown["done"]["scores"]["hps"][1] == pytest.approx(0.03, abs=0.01)
    assert (shown["now"]["iteration"], shown["now"]["iterations"]) == (3, 40)
    assert shown["now"]["scores"] == {"reward": [pytest.approx(0.12), None]}


def test_a_run_whose_process_has_ended_is_stopped(tmp_path):
    training(tmp_path / "run")
    assert is_running(tmp_path / "run")
    (tmp_path / "run" / ".lock").write_text(json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1}))
    assert not is_running(tmp_path / "run")
    for odd in ("[]", "{", '{"host": 3}', '{"pid": "x"}'):
        (tmp_path / "run" / ".lock").write_text(odd)
        is_running(tmp_path / "run")
    assert (tmp_path / "run" / ".lock").read_text() == odd  # looking writes nothing


def test_only_its_own_address_is_answered(tmp_path, served):
    write_run(tmp_path / "run")
    address = served(tmp_path)
    assert address.startswith("http://127.0.0.1:")
    status, headers, _ = got(address)
    assert status == 200 and headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert got(address, Host="evil.example")[0] == 403
    port = address.split(":")[2].split("/")[0]
    assert got(f"http://127.0.0.1:{port}/")[0] == got(f"http://127.0.0.1:{port}/{'x' * 22}/runs.json")[0] == 403


def test_images_of_samples_are_sent_and_nothing_else(tmp_path, served):
    run = tmp_path / "runs" / "run"
    write_run(run)
    write_records(run, {"base": 20, "tuned": 90})
    (tmp_path / "secret.png").write_bytes((run / "samples" / "base.png").read_bytes())
    (run / "samples" / "link.png").symlink_to(tmp_path / "secret.png")
    (run / "samples" / "page.png").write_text("<script>alert(1)</script>")
    address = served(tmp_path / "runs")
    (row,) = json.loads(got(f"{address}runs.json")[2])
    place = f"{address}image/{row['id']}"
    for name in ("samples/base.png", "samples/tuned/000-00.png"):
        status, headers, body = got(f"{place}/{name}")
        assert (status, headers["Content-Type"]) == (200, "image/png") and body.startswith(b"\x89PNG")
    for name in ("samples/link.png", "samples/page.png", "samples/../config.yaml", "samples/%2e%2e/config.yaml",
                 "config.yaml", "result.json", "samples/prompts.json", "samples//base.png", "../run/samples/base.png",
                 "samples/nosuch.png"):  # fmt: skip
        assert got(f"{place}/{name}")[0] == 404, name
    assert got(f"{address}image/ffffffff/samples/base.png")[0] == 404


def test_names_of_a_stranger_are_text_in_every_page(tmp_path, served):
    write_run(tmp_path / "run", method=EVIL, label=EVIL, overrides=[EVIL])
    training(tmp_path / "<img src=x>", rows=3)
    (tmp_path / "<img src=x>" / "metrics.csv").write_text(f'iteration,"{EVIL}"\n0,1\n1,2\n')
    address = served(tmp_path)
    rows = json.loads(got(f"{address}runs.json")[2])
    query = "&".join(f"run={row['id']}" for row in rows)
    for page in (f"{address}report", f"{address}live?{query}", address):
        text = got(page)[2].decode()
        parsed = HtmlPage(text.replace("<!doctype html>", ""))
        assert parsed.open == [] and "x" not in parsed.addresses, page
    assert EVIL in unescape(got(f"{address}report")[2].decode())


def test_what_a_stranger_wrote_runs_nothing_and_stays_as_it_is(tmp_path, served):
    run, made = tmp_path / "runs" / "run", tmp_path / "made"
    training(run)
    (run / "config.yaml").write_text(f"method: !!python/object/apply:os.mkdir ['{made}']\n_target_: os.mkdir\n")
    (run / "checkpoints" / "000001").mkdir(parents=True)
    (run / "checkpoints" / "000001" / "run.ckpt").write_bytes(b"cposix\nmkdir\n(V" + str(made).encode() + b"\ntR.")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    address = served(tmp_path / "runs")
    (row,) = json.loads(got(f"{address}runs.json")[2])
    assert row["status"] == "running" and got(f"{address}live?run={row['id']}")[0] == 200
    assert got(f"{address}report")[0] == 200 and not made.exists()
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_the_report_over_chosen_runs_names_images_of_the_server(tmp_path, served):
    for kl in (1, 2):
        write_run(tmp_path / str(kl), overrides=[f"method.kl_coef={kl}"])
        write_records(tmp_path / str(kl), {"base": 20, "tuned": 90})
    address = served(tmp_path)
    first, _ = json.loads(got(f"{address}runs.json")[2])
    text = got(f"{address}report?run={first['id']}")[2].decode()
    assert f"image/{first['id']}/samples/tuned/000-00.png" in text and "1 run ·" in text
    before = got(f"{address}version?run={first['id']}")[2]
    os.utime(tmp_path / "1" / "result.json", ns=(1, 1))
    assert got(f"{address}version?run={first['id']}")[2] != before


@pytest.mark.parametrize(
    ("words", "said"),
    [(["nowhere"], "runs=nowhere is not a folder"), ([".", "port=x"], "port=x"), ([".", "browser=2"], "browser=2")],
)
def test_what_is_refused_is_one_line(words, said, capsys):
    assert command.entry(words) == 1
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1


def test_a_taken_port_is_one_line(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert command.entry([str(tmp_path), f"port={taken.getsockname()[1]}", "browser=false"]) == 1
    assert "cannot be opened" in capsys.readouterr().err


@pytest.fixture
def opened(tmp_path, served):
    """Open the page over a finished run and one that trains; return the browser and the folder of the latter."""
    runs, home = tmp_path / "runs", tmp_path / "browser"
    write_run(runs / "done")
    training(runs / "now", rows=3)
    for iteration in (0, 25):
        Image.new("RGB", (8, 8), (iteration, 0, 0)).save(runs / "now" / "samples" / f"{iteration:06d}.png")
    home.mkdir()
    address, browser = served(runs), Chromium(home)
    browser.send("Page.navigate", url=address)
    browser.until("document.querySelectorAll('#runs tbody tr').length === 2")
    yield browser, runs / "now"
    browser.close()
    assert browser.complaints == [] and all(url.startswith((address[:20], "data:")) for url in browser.requests)


@browsed
def test_the_page_follows_a_run_while_it_trains(opened):
    browser, now = opened
    assert browser.js("document.querySelector('#runs .running').textContent") == "running"
    browser.until("document.querySelector('#live .time') && document.querySelector('#live .curve')")
    training(now, rows=30)
    browser.until("document.querySelector('#runs tbody').textContent.includes('30 / 40')")


@browsed
def test_runs_are_filtered_pinned_and_compared(opened):
    browser, _ = opened
    field = "document.getElementById('filter')"
    for words, count in (("now", 1), ("", 2)):
        browser.js(f"(f => (f.value = '{words}', f.dispatchEvent(new Event('input'))))({field})")
        assert browser.js("document.querySelectorAll('#runs tbody tr').length") == count
    row = "[...document.querySelectorAll('#runs tbody tr')].find(e => e.textContent.includes('done'))"
    browser.js(f"{row}.querySelector('.pin').click()")
    assert browser.js("document.querySelector('#runs tbody tr').textContent.includes('done')")
    browser.js("document.getElementById('compare').click()")
    browser.until("document.querySelector('.planes [data-tip]')")
