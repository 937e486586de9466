"""Stages: the preference reward "hps" and its independent "judge", CLIPs trained on simulated choices."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from rdt.randomness import generator as stream
from rdt.rewards.base import pad, preprocess
from rdt.rewards.open_clip import to_open_clip
from rdt.shapes import tokenizer
from rdt.shapes.pretrain.annotator import Words, choice, comparisons, differences, own
from rdt.shapes.pretrain.loop import Plan, fit
from rdt.shapes.render import SIZE

OTHERS = 48  # prompts of one step without images of their own, which judge the same images
OWN = 0.1  # weight of the choices between a prompt's own images; the rest goes to all prompts and pairs of the step


@dataclass(frozen=True)
class Annotated:
    """One preference model: its sizes, and the noise of the annotator who taught it."""

    plan: Plan
    temperature: float  # of the Bradley-Terry choice, in units of utility
    vision: dict[str, int]
    text: dict[str, int]
    projection: int
    seed: int


def _tower(width: int, layers: int, heads: int) -> dict[str, int]:
    return dict(hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, num_attention_heads=heads)


STAGES = {
    "hps": Annotated(Plan("hps", 900, 2e-3, ema=0.99), 0.09, _tower(96, 3, 6), _tower(96, 2, 4), 64, 0),
    "judge": Annotated(Plan("judge", 700, 2e-3, ema=0.99), 0.12, _tower(64, 4, 4), _tower(64, 2, 4), 48, 1),
}


@dataclass(frozen=True)
class Agreement:
    """How well scores predict fresh choices, and the annotator's utility."""

    accuracy: float  # share of pairs ordered as the annotator chose
    attainable: float  # the same for the utility itself
    correlation: float  # of differences in score and in utility, both within a prompt


def train(name: str, work: Path, seed: int) -> CLIPModel:
    """The trained preference model of stage "hps" or "judge"."""
    stage = STAGES[name]
    torch.manual_seed(seed + stage.seed)
    model = untrained(stage)
    words = Words()

    def loss(generator: torch.Generator) -> Tensor:
        batch = comparisons(words, OTHERS, generator)
        scores = score(model, batch.images, batch.ids)
        margin = model.logit_scale.exp() * differences(scores)
        probability = choice(differences(batch.utilities), stage.temperature)
        preferred = torch.bernoulli(probability, generator=generator)
        surprise = F.binary_cross_entropy_with_logits(margin, preferred, reduction="none")
        return OWN * own(surprise).mean() + (1 - OWN) * surprise.mean()

    return fit(stage.plan, model, loss, work, seed + stage.seed)


def score(model: CLIPModel, images: Tensor, ids: Tensor) -> Tensor:
    """Cosines (P, N) of prompts (P, 12) and images (N, 3, 32, 32)."""
    pixels = preprocess(images, SIZE, pad)
    seen = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    read = F.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)
    return read @ seen.T


@torch.no_grad()
def agreement(model: CLIPModel, name: str, batches: int = 40, seed: int = 0) -> Agreement:
    """Agreement with the annotator of stage `name` on 24 fresh pairs a batch."""
    words, generator = Words(), stream("agreement", name, seed)
    gains, truths = [], []
    for _ in range(batches):
        batch = comparisons(words, 0, generator)
        gains.append(own(differences(score(model, batch.images, batch.ids))))
        truths.append(own(differences(batch.utilities)))
    gain, truth = torch.cat(gains), torch.cat(truths)
    right = choice(truth, STAGES[name].temperature)
    ours = torch.where(gain > 0, right, 1 - right).mean().item()
    best = torch.maximum(right, 1 - right).mean().item()
    return Agreement(ours, best, torch.corrcoef(torch.stack([gain, truth]))[0, 1].item())


def export(model: CLIPModel, file: Path) -> None:
    """Write the model as published HPS files are laid out, in half precision."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = to_open_clip(model.state_dict())
    save_file({key: value.half().contiguous().clone() for key, value in tensors.items()}, file)


def untrained(stage: Annotated) -> CLIPModel:
    """A random model of this stage's sizes."""
    words = tokenizer.build()
    special = dict(bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id)
    text = dict(vocab_size=len(words), max_position_embeddings=tokenizer.LENGTH, hidden_act="gelu", **special)
    vision = dict(image_size=SIZE, patch_size=4, hidden_act="gelu")
    config = CLIPConfig(
        text_config=text | stage.text, vision_config=vision | stage.vision, projection_dim=stage.projection
    )
    return CLIPModel._from_config(config, attn_implementation="sdpa")
