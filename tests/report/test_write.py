"""The report is written as complete files, and its command refuses bad input in one line."""

import sys

import pytest
from PIL import Image

from rdt.report.__main__ import main
from rdt.report.write import report
from worlds import children
from worlds.html_page import HtmlPage


def test_the_report_is_complete_files_that_need_no_network(sweep):
    page = report([sweep], sweep / "out")
    fronts = {f"front.{form}" for form in ("png", "svg", "csv", "tex")}
    assert {path.name for path in (sweep / "out").iterdir()} == {"report.html", "duels.csv"} | fronts
    parsed = HtmlPage(page.read_text())
    assert parsed.open == []
    assert len(parsed.addresses) == 3  # the base's grid and one for each method
    assert all(address.startswith("data:image/") for address in parsed.addresses)
    assert "http://" not in page.read_text() and "https://" not in page.read_text()
    with Image.open(sweep / "out" / "front.png") as picture:
        picture.load()
        assert picture.width > 1000


def test_the_picture_names_the_quadrants_of_differences_and_draws_scores_if_asked(sweep):
    report([sweep], sweep / "out")
    words = (sweep / "out" / "front.svg").read_text()
    assert "Difference to the base" in words and "paired by prompt" in words and "Δ hps against Δ entropy" in words
    assert words.count("better in both") == 3 and "hacked: hps up, gold down" in words
    report([sweep], sweep / "out", absolute=True)
    words = (sweep / "out" / "front.svg").read_text()
    assert "Δ" not in words and "better in both" not in words and "Reward against diversity" in words


def test_an_unreadable_picture_is_left_out(sweep):
    (sweep / "0" / "samples" / "tuned.png").write_bytes(b"half a picture")
    assert len(HtmlPage(report([sweep], sweep).read_text()).addresses) == 2


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["runs=nowhere"], "nowhere"),
        (["runs=."], "no runs"),
        (["rums=."], "rums"),
        (["out=."], "runs="),
        (["runs=.", "wandb=maybe"], "maybe"),
        (["runs=.", "axes=log"], "want difference or absolute"),
        (["runs=.", "out=/dev/null"], "out=/dev/null cannot be written"),
    ],
)
def test_bad_input_gives_a_one_line_error_and_status_1(tmp_path, monkeypatch, capsys, arguments, word):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_help_is_printed_without_importing_heavy_libraries():
    code = "import sys; from rdt.report.__main__ import main; main(['--help']); print(*HEAVY & set(sys.modules))"
    code = f"HEAVY = {{'torch', 'matplotlib', 'wandb'}}; {code}"
    done = children.run([sys.executable, "-c", code], check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_rdt_report_runs_the_command(tmp_path):
    code = "import sys; sys.argv = ['rdt', 'report', 'runs=nowhere']; from rdt.cli import main; main()"
    done = children.run([sys.executable, "-c", code])
    assert (done.returncode, done.stderr) == (1, "error: runs=nowhere names no folder\n")


@pytest.mark.slow
def test_the_wandb_run_is_written_offline(sweep, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    report([sweep], sweep / "out", wandb=True)
    (run,) = (sweep / "out" / "wandb").glob("offline-run-*")
    assert list(run.glob("run-*.wandb")) and list(run.glob("files/media/images/**/*.png"))
    assert list(run.glob("files/media/table/**/*.json"))
