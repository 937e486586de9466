"""Conditions on disk equal those of the encoders, which are loaded only for new prompts."""

import dataclasses
from pathlib import Path

import pytest
import torch

from rdt import ranks
from rdt.cond import Cond, Embeddings, encoders_hash
from rdt.models import sdxl
from rdt.policy import Setup
from rdt.randomness import Noise
from worlds import model_checkpoints


class Source:
    """Count how often the encoder is loaded, and record the prompts that it encodes."""

    def __init__(self) -> None:
        self.loads, self.encoded = 0, []

    def load(self):
        self.loads += 1
        return self.encode

    def encode(self, prompts: list[str]) -> Cond:
        self.encoded += prompts
        embeds = torch.tensor([[[float(len(p)), 1.0]] for p in prompts])
        return Cond(embeds.bfloat16(), embeds[:, 0])


def test_each_prompt_is_encoded_once_on_its_own_and_kept(tmp_path: Path) -> None:
    source = Source()
    kept = Embeddings(tmp_path, source.load)
    kept.prepare(["a", "bb", "a"])
    cond = kept(["bb", "ccc", "a"])
    assert source.encoded == ["a", "bb", "ccc"] and source.loads == 2
    assert cond.embeds.dtype == torch.bfloat16 and cond.embeds[:, 0, 0].tolist() == [2, 3, 1]
    again = Source()
    other = Embeddings(tmp_path, again.load)(["bb", "a"])
    assert not again.loads and other.pooled.equal(torch.tensor([[2.0, 1.0], [1.0, 1.0]]))
    assert len(list(tmp_path.iterdir())) == 3


def test_the_ranks_of_a_run_begin_at_different_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_here", ranks.Ranks(rank=1, local=1, world=2))
    source = Source()
    Embeddings(tmp_path, source.load).prepare(["a", "bb", "ccc", "dddd"])
    assert source.encoded == ["ccc", "dddd", "a", "bb"]


def test_a_broken_file_is_refused_by_name(tmp_path: Path) -> None:
    kept = Embeddings(tmp_path, Source().load)
    kept.prepare(["a"])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ValueError, match=file.name):
        kept(["a"])


def test_a_policy_keeps_no_text_encoder_and_has_the_same_conditions(tmp_path: Path) -> None:
    folder = model_checkpoints.sdxl(tmp_path / "model")
    resident = sdxl.parts(folder, Setup(resolution=model_checkpoints.SIDE))
    kept = sdxl.parts(folder, Setup(resolution=model_checkpoints.SIDE, embeddings=str(tmp_path / "cache")))
    prompts = ["a circle", "", "two"]
    kept.prepare(prompts)
    found, expected = kept.encode(prompts), Cond.cat(*(resident.encode([prompt]) for prompt in prompts))
    assert found.embeds.equal(expected.embeds) and found.pooled.equal(expected.pooled)
    assert not expected.embeds[1].any() and expected.embeds[0].any()  # SDXL encodes the empty prompt as zeros
    assert len(resident.frozen) == 3 and len(kept.frozen) == 1


def test_other_files_or_settings_give_another_hash(tmp_path: Path) -> None:
    (tmp_path / "text_encoder").mkdir()
    file = tmp_path / "text_encoder" / "config.json"
    file.write_text("{}")
    first = encoders_hash(tmp_path, "fp32")
    assert first == encoders_hash(tmp_path, "fp32") != encoders_hash(tmp_path, "bf16")
    file.write_text("{ }")
    assert encoders_hash(tmp_path, "fp32") != first


def key(*indices: int) -> Noise:
    """Return the noise of samples."""
    return Noise(seed=3, purpose="test", indices=indices, shape=(2,), device="cpu")


def test_the_noise_of_a_condition_is_drawn_from_its_key_bit_for_bit_for_any_rows() -> None:
    whole = Cond(torch.zeros(4, 5, 3, dtype=torch.bfloat16), torch.zeros(4, 6), key(4, 9, 2, 7))
    assert whole.drawn.embeds.equal(key(4, 9, 2, 7).like(torch.zeros(4, 5, 3), "condition 3"))
    assert whole.drawn.pooled is not None and whole.drawn.noise is None and whole.drawn is whole.drawn
    assert whole.drawn.pooled.equal(key(4, 9, 2, 7).like(torch.zeros(4, 6), "condition 2"))
    for rows in (slice(1, 3), torch.tensor([3, 0]), torch.tensor([True, False, False, True])):
        assert whole[rows].drawn.embeds.equal(whole.drawn.embeds[rows])
    assert Cond.cat(whole[:1], whole[1:]).drawn.embeds.equal(whole.drawn.embeds)


def test_conditions_of_which_one_has_no_noise_have_none_together() -> None:
    with_noise, without = Cond(torch.zeros(1, 5, 3), noise=key(1)), Cond(torch.zeros(1, 5, 3))
    for joined in (Cond.cat(with_noise, without), Cond.cat(without, with_noise)):
        assert joined.noise is None and len(joined) == 2
    with pytest.raises(ValueError, match="cond carries no noise to draw"):
        _ = without.drawn
    with pytest.raises(ValueError, match="test of seed=3 and test of seed=4 differ"):
        Cond.cat(with_noise, Cond(torch.zeros(1, 5, 3), noise=dataclasses.replace(key(1), seed=4)))
