"""SIGTERM outside the training loop ends a run in one line; the handler of the process is restored afterwards."""

import os
import signal

import pytest

from rdt.errors import Terminated
from rdt.training.abort import stop_on_signals


def test_sigterm_names_the_newest_checkpoint(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated, match=r"^stopped by SIGTERM; newest checkpoint: none$"), stop_on_signals(tmp_path):
        os.kill(os.getpid(), signal.SIGTERM)
    newest = tmp_path / "checkpoints" / "000004"
    newest.mkdir(parents=True)
    with pytest.raises(Terminated, match=f"newest checkpoint: {newest}$"), stop_on_signals(tmp_path):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
