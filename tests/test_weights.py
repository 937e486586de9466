"""Weights: where sources are found, and which files are refused."""

import pickle
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import rdt
from rdt import weights
from rdt.weights import MissingCheckpoint, load_tensors, locate

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(2.5)}


class Bomb:
    """Pickles to a function call, which weights_only must refuse."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def same(loaded):
    return loaded.keys() == TENSORS.keys() and all(torch.equal(loaded[key], TENSORS[key]) for key in TENSORS)


def test_both_containers_hold_the_same_tensors(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors")
    torch.save(TENSORS, tmp_path / "x.pt")
    torch.save({"state_dict": TENSORS, "epoch": 3}, tmp_path / "published.pt")
    assert all(same(load_tensors(tmp_path / name)) for name in ("x.safetensors", "x.pt", "published.pt"))


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path):
    target = tmp_path / "executed"
    torch.save({"state_dict": Bomb(target)}, tmp_path / "zip.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb(target)))
    for name in ("zip.pt", "raw.pt"):
        with pytest.raises(ValueError, match=name) as caught:
            load_tensors(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"\x80\x02garbage"])
def test_a_corrupt_file_is_refused_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as caught:
        load_tensors(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused_in_one_line(tmp_path):
    for name, save in (("x.safetensors", save_file), ("x.pt", torch.save)):
        save(TENSORS, tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
        with pytest.raises(ValueError, match=name) as caught:
            load_tensors(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_file_of_anything_but_tensors_is_refused(tmp_path):
    torch.save({"lr": 0.1}, tmp_path / "x.pt")
    torch.save([1, 2], tmp_path / "y.pt")
    for name in ("x.pt", "y.pt"):
        with pytest.raises(ValueError, match="dictionary of tensors"):
            load_tensors(tmp_path / name)


def test_paths_and_the_bundle_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "BUNDLE", tmp_path)
    (tmp_path / "folder").mkdir()
    save_file(TENSORS, tmp_path / "x.safetensors")
    assert locate(str(tmp_path)) == tmp_path
    assert locate("bundled:folder") == tmp_path / "folder"
    assert same(load_tensors(locate("bundled:x.safetensors")))


def test_the_bundle_lies_inside_the_package():
    assert weights.BUNDLE.is_relative_to(Path(rdt.__file__).parent)


@pytest.mark.parametrize("source", ["nosuch.pt", "/nosuch/file.pt", "bundled:nosuch.safetensors"])
def test_a_missing_file_is_refused_in_one_line_with_its_name_and_a_cure(source):
    with pytest.raises(MissingCheckpoint) as caught:
        locate(source)
    message = str(caught.value)
    assert source in message and "\n" not in message
    assert "bundled:<file>" in message or "rdt.shapes.pretrain" in message


@pytest.mark.parametrize("source", ["hub:nosuch/repo", "hub:nosuch/repo:weights.pt"])
def test_without_a_network_the_error_says_what_to_run(source, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingCheckpoint) as caught:
        locate(source)
    message = str(caught.value)
    assert "nosuch/repo" in message and "hf download" in message and "\n" not in message


def test_a_cached_source_needs_no_network(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0" * 40
    folder = tmp_path / "models--some--repo"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    save_file(TENSORS, folder / "snapshots" / commit / "x.safetensors")
    assert same(load_tensors(locate("hub:some/repo:x.safetensors")))
    assert locate("hub:some/repo") == folder / "snapshots" / commit


def test_a_call_to_the_hub_fails_in_one_line_or_after_a_time_limit(monkeypatch):
    def fail():
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(weights, "PATIENCE", 0.2)
    assert weights.failure(lambda: None) is None
    assert weights.failure(fail) == "first line"
    assert weights.failure(threading.Event().wait) == "no answer from the hub within 0.2 s"
