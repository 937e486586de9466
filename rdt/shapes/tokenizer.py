"""The tokenizer of the embedded world has a byte-level CLIP vocabulary with one token per word of the grammar."""

from collections import Counter
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from rdt.shapes.grammar import all_prompts

START, END = "<|startoftext|>", "<|endoftext|>"
SUFFIX = "</w>"  # marks the end of a word
LENGTH = 12  # tokens; the longest prompt of the grammar takes 8


def build() -> CLIPTokenizer:
    """Return the tokenizer, which spells text outside the grammar in bytes.

    Ids count the bytes first, then bytes that end a word, merges, start and end.
    """
    letters = sorted(ByteLevel.alphabet())
    merges = _merges(sorted({word for prompt in all_prompts() for word in prompt.split()}))
    tokens = [*letters, *(letter + SUFFIX for letter in letters), *(a + b for a, b in merges), START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges, the most frequent pair first, that make each word one token."""
    spelled = [[*word[:-1], word[-1] + SUFFIX] for word in words]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for tokens in spelled for pair in pairwise(tokens)):
        merges.append(max(sorted(pairs), key=pairs.__getitem__))
        spelled = [_merged(tokens, merges[-1]) for tokens in spelled]
    return merges


def _merged(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for token in tokens:
        if joined and (joined[-1], token) == pair:
            joined[-1] += token
        else:
            joined.append(token)
    return joined
