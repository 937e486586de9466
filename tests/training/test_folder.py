"""A run's folder: what a run may continue, what a new run removes, and which checkpoint is the newest."""

import pytest
from omegaconf import OmegaConf

from rdt.errors import UsageError
from rdt.training import folder, lock
from worlds.run_checkpoints import checkpoint
from worlds.smallest_run import minimal


def test_the_newest_checkpoint_is_the_last_complete_one(tmp_path):
    assert folder.newest_checkpoint(tmp_path) is None
    for name in ("000002", "000010", "000011.partial"):
        checkpoint(tmp_path, name)
    assert folder.newest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "000010"
    assert folder.resumed_from(minimal(tmp_path), tmp_path) == tmp_path / "checkpoints" / "000010" / "run.ckpt"
    assert folder.resumed_from(minimal(tmp_path, "resume=never"), tmp_path) is None


def test_a_run_continues_only_under_its_own_config(tmp_path):
    folder.begin(minimal(tmp_path), tmp_path)
    folder.check_folder(
        minimal(tmp_path, "iterations=9", "devices=2", "evaluation.prompts=3", "trainer.log_every=5"), tmp_path
    )
    with pytest.raises(UsageError, match=r"method.lr=0.5 differs from \S+ of the run in output_dir=.*resume=never"):
        folder.check_folder(minimal(tmp_path, "method.lr=0.5"), tmp_path)
    folder.check_folder(minimal(tmp_path, "method.lr=0.5", "resume=never"), tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"output_dir=\S+/file/out cannot be written: \S+/file is not a writable"):
        folder.check_folder(minimal(tmp_path), tmp_path / "file" / "out")


def test_starting_over_removes_what_an_earlier_run_could_be_continued_from(tmp_path):
    cfg = minimal(tmp_path, "resume=never")
    (tmp_path / "checkpoints" / "000002").mkdir(parents=True)
    for name in ("metrics.csv", "result.json", "wandb_id", folder.ERROR, "notes.txt"):
        (tmp_path / name).touch()
    folder.begin(cfg, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "notes.txt"}
    assert OmegaConf.load(tmp_path / "config.yaml") == cfg


def test_a_finished_job_is_recognised_by_its_whole_config(tmp_path):
    cfg = minimal(tmp_path / "out", "logger=csv")
    assert not folder.is_finished(cfg, tmp_path / "out")
    folder.begin(cfg, tmp_path / "out")
    (tmp_path / "out" / "result.json").write_text("{}")
    assert not folder.is_finished(cfg, tmp_path / "out")  # it was killed before its report
    (tmp_path / "out" / "report.html").write_text("")
    assert folder.is_finished(cfg, tmp_path / "out")
    for other in ("iterations=3", "evaluation.prompts=3", "resume=never"):
        assert not folder.is_finished(minimal(tmp_path / "out", "logger=csv", other), tmp_path / "out")


@pytest.mark.parametrize("text", ["a: [", "\t- :", "[1, 2]", "a: " + "[" * 2000, "\udcff", "1"], ids=range(6))
def test_a_config_that_cannot_be_read_is_one_line(tmp_path, text):
    (tmp_path / "config.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=rf"^{tmp_path}/config.yaml is not (a readable|the) config") as refused:
        folder.check_folder(minimal(tmp_path), tmp_path)
    assert "\n" not in str(refused.value)


def test_what_a_killed_process_left_is_removed_and_that_of_a_living_one_is_not(tmp_path):
    gone = 2**22 + 1  # no process has a number beyond the system's largest
    left = [f".front.png.{gone}", f"samples/.base.png.{gone}", "checkpoints/000003.partial/run.ckpt"]
    kept = [".result.json.1", ".hidden", "samples/mine.png"]
    for name in (*left, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folder.begin(minimal(tmp_path), tmp_path)
    assert not any((tmp_path / name).exists() for name in left)
    assert all((tmp_path / name).exists() for name in kept)


def test_a_folder_that_was_removed_is_made_again_unless_another_run_has_it(tmp_path, capsys):
    out = tmp_path / "out"
    cfg = minimal(out)
    folder.keep(cfg, out)
    assert OmegaConf.load(out / "config.yaml") == cfg
    assert capsys.readouterr().err.startswith(f"warning: output_dir={out} was removed while the run wrote into it")
    folder.keep(cfg, out)
    assert capsys.readouterr().err == ""
    (out / lock.FILE).write_text('{"host": "elsewhere", "pid": 7, "since": "today"}')
    with pytest.raises(UsageError, match=rf"^output_dir={out} was removed, and .* writes there now$"):
        folder.keep(cfg, out)
