"""The embedded world's tokenizer, in CLIPTokenizer's format: every word of the grammar is one token, any other text still encodes."""

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from rdt.shapes.world import ATTRIBUTES, STATEABLE

LENGTH = 12  # tokens, with start and end
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = ("a", "on", "shape", *(word for name in STATEABLE for word in ATTRIBUTES[name]))


def build() -> CLIPTokenizer:
    """A byte-level CLIP tokenizer whose merges make each grammar word one token."""
    vocabulary, merges = _learned()
    return CLIPTokenizer(
        vocab=vocabulary, merges=merges, model_max_length=LENGTH,
        bos_token=START, eos_token=END, unk_token=END, pad_token=END,
    )  # fmt: skip


def _learned() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-pair merges learned from the word list until every word is whole."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=10_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(sorted(WORDS), trainer)
    merges = [_pair(token) for token in _merges(learner)]
    symbols = [*alphabet, *(letter + "</w>" for letter in alphabet), *(a + b for a, b in merges), START, END]
    return {symbol: index for index, symbol in enumerate(dict.fromkeys(symbols))}, merges


def _merges(learner: Tokenizer) -> list:
    import json

    return json.loads(learner.to_str())["model"]["merges"]


def _pair(merge: str | list[str]) -> tuple[str, str]:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second
