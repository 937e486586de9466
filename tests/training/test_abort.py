"""Signals outside the training loop end a run in one line, as a full disk does; handlers are restored afterwards."""

import errno
import os
import signal

import pytest

from rdt.errors import Terminated, UsageError
from rdt.training.abort import SIGNALS, explain_full_disk, stop_on_signals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_names_the_newest_checkpoint(tmp_path, number):
    before, name = signal.getsignal(number), number.name
    with pytest.raises(Terminated, match=rf"^stopped by {name}; newest checkpoint: none$"), stop_on_signals(tmp_path):
        os.kill(os.getpid(), number)
    newest = tmp_path / "checkpoints" / "000004"
    newest.mkdir(parents=True)
    with pytest.raises(Terminated, match=f"newest checkpoint: {newest}$"), stop_on_signals(tmp_path):
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 64 vs 0"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
    ids=range(4),
)
def test_a_full_disk_is_one_line_with_the_folder_and_what_to_do(tmp_path, error):
    (tmp_path / "checkpoints" / "000002").mkdir(parents=True)
    (tmp_path / "checkpoints" / "000002" / "run.ckpt").write_bytes(b"0" * 5_000_000)
    with pytest.raises(UsageError) as refused, explain_full_disk(tmp_path):
        raise error
    line = str(refused.value)
    assert line.startswith(f"output_dir={tmp_path}: no space is left on its disk, ") and "\n" not in line
    assert "MB free (a checkpoint takes 5 MB); make room and start again with the same output_dir" in line
    assert line.endswith(f"newest checkpoint: {tmp_path / 'checkpoints' / '000002'}")


def test_other_errors_pass_a_full_disk_by(tmp_path):
    with pytest.raises(FileNotFoundError), explain_full_disk(tmp_path):
        (tmp_path / "nosuch").read_text()
