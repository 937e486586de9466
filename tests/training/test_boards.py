"""TensorBoard and Trackio get scalars, pictures and the front; a package that is not installed is refused at once."""

import sys
from importlib.util import find_spec

import pytest
from PIL import Image

from rdt.errors import UsageError
from rdt.training import extras
from rdt.training.boards import Final, TensorBoard, Trackio, markdown
from worlds.smallest_run import minimal


def needs(name):
    return pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed")


@pytest.fixture
def final(tmp_path):
    """Return what a finished run of four iterations shows."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "front.png")
    pictures = {"front/picture": tmp_path / "front.png"}
    return Final(4, {"final/reward/hps": 0.5}, pictures, ["point", "hps"], [["base", 0.25], ["a|b", 0.5]])


@pytest.mark.parametrize("name", extras.BOARDS)
def test_a_logger_without_its_package_is_refused_in_one_line(tmp_path, monkeypatch, name):
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=rf"logger={name} needs the package {name}.*\.\[{name}\]"):
        extras.check_boards(minimal(tmp_path, f"logger={name}"))
    extras.check_boards(minimal(tmp_path, "logger=csv"))


def test_a_table_is_markdown_with_short_numbers():
    assert markdown(["point", "hps"], [["a|b", 0.123456]]).splitlines() == [
        "| point | hps |", "| --- | --- |", "| a\\|b | 0.1235 |",
    ]  # fmt: skip


def log(board, final):
    """Log two iterations, a picture and the end of a run."""
    for step in range(2):
        board.log_metrics({"train/reward": step / 2, "epoch": 0}, step=step)
    board.log_picture("samples/training", Image.new("RGB", (8, 8), "blue"), 1)
    board.save()
    board.conclude(final)


@needs("tensorboard")
def test_tensorboard_reads_what_was_logged(tmp_path, final):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log(TensorBoard(tmp_path / "run", 10, "seed: 0", first=0), final)
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    assert [(one.step, one.value) for one in found.Scalars("train/reward")] == [(0, 0.0), (1, 0.5)]
    assert found.Scalars("final/reward/hps")[0].step == 4 and "epoch" not in found.Tags()["scalars"]
    assert {"samples/training", "front/picture"} <= set(found.Tags()["images"])
    assert "front/table/text_summary" in found.Tags()["tensors"]


@needs("tensorboard")
def test_a_run_that_continues_hides_what_it_repeats(tmp_path, final):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorBoard(tmp_path, 10, "seed: 0", first=0)
    for step in range(3):
        first.log_metrics({"train/reward": 0.0}, step=step)
    first.close()
    again = TensorBoard(tmp_path, 10, "seed: 0", first=2)
    again.log_metrics({"train/reward": 1.0}, step=2)
    again.close()
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(one.step, one.value) for one in found.Scalars("train/reward")] == [(0, 0.0), (1, 0.0), (2, 1.0)]


@needs("trackio")
def test_trackio_reads_what_was_logged(tmp_path, final, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)  # it reads the variable when it is imported
    (tmp_path / "run").mkdir()
    log(Trackio.started(minimal(tmp_path / "run", "logger=trackio"), tmp_path / "run"), final)
    import trackio

    (run,) = trackio.Api().runs("rdt")
    assert run.name.startswith("sqdf-hps-s0-")
    assert list((tmp_path / "trackio").rglob("*.png"))
