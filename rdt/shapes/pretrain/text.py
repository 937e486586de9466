"""The text stage trains the text encoder to say what a prompt states; like Stable Diffusion's, it is frozen afterwards.

An encoder that starts to tell words apart only while the diffusion model trains delays it by several times.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from rdt.shapes.attributes import ATTRIBUTES, NAMES, STATEABLE
from rdt.shapes.grammar import sentence
from rdt.shapes.pretrain.loop import Plan, fit

PLAN = Plan("text", steps=600, lr=2e-3)
BATCH = 128
WIDTH = 96


class PromptTable:
    """Looks up the token ids of a random prompt that is true of a mode and states any subset of its attributes."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self.columns = torch.tensor([NAMES.index(name) for name in STATEABLE])
        self.sizes = [len(ATTRIBUTES[name]) + 1 for name in STATEABLE]  # 0 means unstated
        self.strides = torch.tensor([int(torch.tensor(self.sizes[k + 1 :]).prod()) for k in range(4)])
        self.stated = torch.cartesian_prod(*[torch.arange(size) for size in self.sizes])  # (784, 4)
        texts = [_sentence(row) for row in self.stated.tolist()]
        self.ids = _tokenize(tokenizer, [*texts, ""])  # (785, 12)

    def rows(self, modes: Tensor, generator: torch.Generator, dropout: float) -> Tensor:
        """Return rows (N,) of `ids`, a random true prompt per mode (N, 6) or, by `dropout`, the empty prompt."""
        states = torch.rand(len(modes), 4, generator=generator) < 0.5
        row = ((modes[:, self.columns] + 1) * states * self.strides).sum(1)
        drop = torch.rand(len(modes), 1, generator=generator) < dropout
        return torch.where(drop[:, 0], len(self.ids) - 1, row)


class Reader(nn.Module):
    """Says what a prompt states, from the mean of its token embeddings and from its pooled embedding."""

    def __init__(self, tokenizer: CLIPTokenizer, sizes: list[int]) -> None:
        super().__init__()
        self.encoder = CLIPTextModel(_config(tokenizer))
        self.heads = nn.ModuleList(nn.Linear(WIDTH, size) for size in sizes)

    def losses(self, ids: Tensor, stated: Tensor) -> Tensor:
        """Return the cross-entropies, (2, 4), of what prompts with ids (N, 12) state, (N, 4)."""
        output = self.encoder(ids)
        sources = (output.last_hidden_state.mean(1), output.pooler_output)
        return torch.stack(
            [
                torch.stack([F.cross_entropy(head(source), stated[:, k]) for k, head in enumerate(self.heads)])
                for source in sources
            ]
        )


def train(start: Path | None, tokenizer: CLIPTokenizer, work: Path, seed: int) -> CLIPTextModel:
    """Return the text encoder in the folder `start` as it is, or a trained one if no folder is given."""
    if start:
        return CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32).eval().requires_grad_(False)
    torch.manual_seed(seed)
    prompts = PromptTable(tokenizer)
    reader = Reader(tokenizer, prompts.sizes)

    def loss(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(prompts.stated), (BATCH,), generator=generator)
        return reader.losses(prompts.ids[rows], prompts.stated[rows]).mean()

    fit(PLAN, reader, loss, work, seed)
    return reader.encoder


def _sentence(row: list[int]) -> str:
    stated = {name: ATTRIBUTES[name][value - 1] for name, value in zip(STATEABLE, row, strict=True) if value}
    return sentence(stated)


def _tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    length = tokenizer.model_max_length
    return tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


def _config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
