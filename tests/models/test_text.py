"""Families bring their own prompt encoding; prompts that are longer than a model reads are counted and reported."""

import json

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusionPipeline
from torch import nn
from transformers import CLIPTokenizer, T5Tokenizer

from rdt.cond import Cond
from rdt.models.text import Text, Widths, encoders, overlong_counter
from rdt.policy import Setup
from rdt.prompts import notices
from rdt.training.launch import work
from rdt.weights import locate
from worlds import model_checkpoints
from worlds.smallest_run import minimal


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Write pipelines with one and with two tokenizers."""
    return {name: model_checkpoints.MAKERS[name](tmp_path_factory.mktemp(name)) for name in ("sd15", "flux")}


def counter(folder, tokens, *left_out):
    """Return the counter of a pipeline's overlong prompts, without the tokenizers that are left out."""
    kinds = {"tokenizer": CLIPTokenizer, "tokenizer_2": T5Tokenizer}
    classes = {name: kind for name, kind in kinds.items() if (folder / name).is_dir() and name not in left_out}
    return overlong_counter(Text(folder, {}, tokens), classes)


def test_a_family_encodes_prompts_by_the_function_it_brings(tmp_path):
    def encode(pipe, tokens, prompts):
        assert pipe.unet is None and pipe.vae is None
        return Cond(torch.full((len(prompts), 1, 1), float(tokens)))

    folder, widths = model_checkpoints.sd15(tmp_path), Widths(1, None)
    kinds = {FluxPipeline: None, StableDiffusionPipeline: encode}
    text = encoders(Text(folder, kinds, tokens=9), nn.Identity(), widths, Setup())
    assert text.encode(["a", "b"]).embeds.flatten().tolist() == [9, 9]
    assert [type(module).__name__ for module in text.resident] == ["CLIPTextModel"]
    with pytest.raises(ValueError, match="is a StableDiffusionPipeline; expected FluxPipeline"):
        encoders(Text(folder, {FluxPipeline: encode}), nn.Identity(), widths, Setup())


def test_clip_cuts_prompts_that_exceed_its_limit_with_start_and_end(folders):
    tokenizer = CLIPTokenizer.from_pretrained(folders["sd15"] / "tokenizer")
    limit = tokenizer.model_max_length
    count = counter(folders["sd15"], 77)
    letters = ["q " * n for n in range(1, limit + 2)]
    lengths = [len(tokenizer(prompt).input_ids) for prompt in letters]
    assert count(letters) == sum(length > limit for length in lengths) > 0
    assert count([letters[lengths.index(limit)]]) == 0 and count([]) == 0


def test_a_prompt_that_one_encoder_reads_whole_is_not_counted(folders):
    prompt = "q " * 100
    assert counter(folders["flux"], 77)([prompt, "q"]) == 1
    assert counter(folders["flux"], 500)([prompt, "q"]) == 0
    assert counter(folders["flux"], 500, "tokenizer_2")([prompt, "q"]) == 1


def test_each_set_with_overlong_prompts_gives_one_line():
    counts = {"train": {"prompts": 9, "overlong": 0}, "held_out": {"prompts": 4, "overlong": 3}}
    assert notices(counts) == ["prompts  3 of 4 in held_out are longer than the model reads: their ends have no effect"]


def test_a_run_counts_reports_and_records_overlong_prompts(tmp_path, capsys):
    tokenizer = CLIPTokenizer.from_pretrained(locate("bundled:base") / "tokenizer")
    longest = "a small blue ring on white " * tokenizer.model_max_length
    (tmp_path / "train.txt").write_text(f"a circle\na blue ring\n{longest}\n")
    (tmp_path / "held_out.txt").write_text("a ring\na small circle\n")
    files = [f"prompts.{name}_file={tmp_path / name}.txt" for name in ("train", "held_out")]
    work(minimal(tmp_path / "out", "method=draft_lv", "logger=csv", "prompts=file", *files))
    assert "prompts  1 of 3 in train are longer than the model reads" in capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["prompts"] == {"train": {"prompts": 3, "overlong": 1}, "held_out": {"prompts": 2, "overlong": 0}}
