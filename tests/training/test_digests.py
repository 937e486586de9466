"""What a run saved is compared with its digest before it is loaded: damage is one line, and never goes unnoticed."""

import json

import pytest
import torch

from rdt.errors import UsageError
from rdt.training import digests, finished, folder
from rdt.training.checkpoint_reader import CheckpointReader
from worlds.run_checkpoints import checkpoint
from worlds.smallest_run import minimal

DAMAGES = {
    "empty": lambda whole: b"",
    "half": lambda whole: whole[: len(whole) // 2],
    "a byte less": lambda whole: whole[:-1],
    "garbage": lambda whole: b"\x93garbage" * 9,
    "a bit": lambda whole: whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
}


def damage(file, kind):
    file.write_bytes(DAMAGES[kind](file.read_bytes()))


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", [digests.STATE, digests.METRICS])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, capsys, kind, name):
    before, newest = (checkpoint(tmp_path, name) for name in ("000001", "000002"))
    damage(newest / name, kind)
    assert folder.resumed_from(minimal(tmp_path), tmp_path) == before / digests.STATE
    warned = capsys.readouterr().err
    assert warned.count("\n") == 1 and f"{newest / name} is damaged" in warned and f"before it, {before}" in warned
    damage(before / name, kind)
    with pytest.raises(
        UsageError, match=rf"^{newest / name} is damaged.*; no checkpoint in .* is intact.*resume=never"
    ):
        folder.resumed_from(minimal(tmp_path), tmp_path)


@pytest.mark.parametrize(
    "seal", ["", "[]", "{", '{"iteration": 2}', '{"iteration": "x", "identity": {}, "sha256": {}}']
)
def test_a_damaged_seal_is_one_line(tmp_path, seal):
    (checkpoint(tmp_path, "000002") / digests.SEAL).write_text(seal)
    named = minimal(tmp_path / "other", f"resume={tmp_path / 'checkpoints' / '000002'}")
    with pytest.raises(UsageError, match=r"^resume=\S+: \S+checkpoint.json is damaged$"):
        folder.check_folder(named, tmp_path / "other")
    (tmp_path / "checkpoints" / "000002" / digests.SEAL).unlink()
    with pytest.raises(UsageError, match=r"^resume=\S+: \S+checkpoint.json is missing$"):
        folder.check_folder(named, tmp_path / "other")


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"method": "draft"}, "is a checkpoint of method=draft, which method=sqdf cannot continue"),
        ({"model": "sd15"}, "is a checkpoint of model=sd15, which model=shapes cannot continue"),
        ({"reward": "gold"}, "is a checkpoint of reward=gold, which reward=hps cannot continue"),
        ({"model.lora.rank": 4}, "is a checkpoint of model.lora.rank=4, which model.lora.rank=2 cannot continue"),
        ({"iteration": 3}, "has done 3 iterations, more than iterations=2; take iterations=3 or more"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_naming_both(tmp_path, changed, words):
    made = checkpoint(tmp_path, "000002", **changed)
    with pytest.raises(UsageError, match=rf"^resume=\S+ {words}"):
        folder.check_folder(minimal(tmp_path / "other", f"resume={made}"), tmp_path / "other")
    with pytest.raises(UsageError, match=rf"^output_dir=\S+: checkpoints/000002 {words}"):
        folder.check_folder(minimal(tmp_path), tmp_path)


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return open, (str(self.victim), "w")


def test_a_strangers_checkpoint_is_one_line_and_runs_no_code(tmp_path):
    reader, file = CheckpointReader({"weight": torch.Size([3])}), tmp_path / "run.ckpt"
    whole = {"state_dict": {"weight": torch.ones(3)}, "loops": {}, "optimizer_states": [], "progress": {}}
    torch.save(whole, file)
    assert reader.load_checkpoint(file)["state_dict"]["weight"].tolist() == [1, 1, 1]
    for stranger, words in {
        "code": ({"a": Payload(tmp_path / "victim")}, "is not a readable checkpoint"),
        "list": ([1], "is not a checkpoint of a run"),
        "part": ({"state_dict": {}}, "is not a checkpoint of a run"),
        "rank": (whole | {"state_dict": {"weight": torch.ones(4)}}, "of another adapter"),
    }.values():
        torch.save(stranger, file)
        with pytest.raises(UsageError, match=words) as refused:
            reader.load_checkpoint(file)
        assert str(file) in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_adapter_is_one_line_of_evaluate_and_sample(copied_run, kind):
    damage(copied_run / finished.LORA, kind)
    with pytest.raises(UsageError, match=rf"^{copied_run / finished.LORA} is damaged") as refused:
        finished.read_finished(copied_run, None).experiment()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "{}", "[", json.dumps([1])])
def test_a_damaged_digest_of_an_adapter_is_one_line(copied_run, text):
    (copied_run / "lora" / digests.LORA_SEAL).write_text(text)
    with pytest.raises(UsageError, match=r"digests.json, the digest of the adapter, is missing or damaged"):
        finished.read_finished(copied_run, None)
