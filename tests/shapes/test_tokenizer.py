"""The tokenizer of the embedded world has one token per word of the grammar and loses no other text."""

import pytest
from transformers import CLIPTokenizer

from rdt.shapes.grammar import all_prompts
from rdt.shapes.tokenizer import LENGTH, build


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build()


def test_every_word_of_the_grammar_is_one_token(tokenizer):
    prompts = all_prompts()
    for prompt, ids in zip(prompts, tokenizer(prompts).input_ids, strict=True):
        assert tokenizer.convert_ids_to_tokens(ids)[1:-1] == [f"{word}</w>" for word in prompt.split()]
        assert len(ids) <= LENGTH


def test_prompts_have_distinct_ids(tokenizer):
    assert len({tuple(ids) for ids in tokenizer(all_prompts()).input_ids}) == 784


def test_any_text_survives_a_round_trip(tokenizer):
    text = "héllo, reddish 42!"
    ids = tokenizer(text).input_ids
    assert tokenizer.unk_token_id not in ids[1:-1]
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")


def test_padding_is_the_end_of_text_and_truncation_keeps_it(tokenizer):
    batch = tokenizer(["a ring", "a " * 30], padding="max_length", truncation=True, return_tensors="pt").input_ids
    end = tokenizer.eos_token_id
    assert batch.shape == (2, LENGTH)
    assert batch[0].tolist().count(end) == LENGTH - 3
    assert batch[1, -1] == end and batch[1].tolist().count(end) == 1


def test_saving_and_loading_changes_nothing(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    texts = [*all_prompts()[:50], "something else, 42"]
    assert loaded(texts).input_ids == tokenizer(texts).input_ids
    assert len(loaded) == len(tokenizer) and loaded.model_max_length == LENGTH
    assert loaded.pad_token_id == tokenizer.eos_token_id
