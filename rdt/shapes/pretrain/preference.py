"""The preference stages train the reward "hps" and its independent "judge", two CLIPs, on simulated choices."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from rdt.files import replacing
from rdt.randomness import generator as stream
from rdt.rewards.base import pad, preprocess
from rdt.rewards.open_clip import to_open_clip
from rdt.shapes import tokenizer
from rdt.shapes.pretrain.annotator import TokenisedPrompts, choice_probability, comparisons, differences, own_pairs
from rdt.shapes.pretrain.loop import Plan, fit
from rdt.shapes.render import SIZE

OTHERS = 48  # further prompts of a training step, under which its images are compared as well
OWN = 0.1  # weight of the choices between a prompt's own two images; the rest goes to all prompts and pairs


@dataclass(frozen=True)
class PreferenceStage:
    """Describes one preference model by its sizes and the noise of the annotator that it learns from."""

    plan: Plan
    temperature: float  # noise of the Bradley-Terry choice, in units of utility
    vision: dict[str, int]
    text: dict[str, int]
    projection: int
    seed: int


def _tower(width: int, layers: int, heads: int) -> dict[str, int]:
    return dict(hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, num_attention_heads=heads)


STAGES = {
    "hps": PreferenceStage(Plan("hps", 2500, 2e-3, ema=0.995), 0.09, _tower(96, 3, 6), _tower(96, 2, 4), 64, 0),
    "judge": PreferenceStage(Plan("judge", 2000, 2e-3, ema=0.995), 0.12, _tower(64, 4, 4), _tower(64, 2, 4), 48, 1),
}


@dataclass(frozen=True)
class Agreement:
    """Measures how well scores predict new choices of the annotator, and its utility."""

    accuracy: float  # share of pairs ordered as the annotator chose
    attainable: float  # the share that the utility itself orders so
    correlation: float  # between differences in score and in utility within a prompt


def train(name: str, work: Path, seed: int) -> CLIPModel:
    """Return the trained preference model of stage "hps" or "judge"."""
    stage = STAGES[name]
    torch.manual_seed(seed + stage.seed)
    model = untrained(stage)
    prompts = TokenisedPrompts()

    def loss(generator: torch.Generator) -> Tensor:
        batch = comparisons(prompts, OTHERS, generator)
        scores = score(model, batch.images, batch.ids)
        margin = model.logit_scale.exp() * differences(scores)
        probability = choice_probability(differences(batch.utilities), stage.temperature)
        preferred = torch.bernoulli(probability, generator=generator)
        surprise = F.binary_cross_entropy_with_logits(margin, preferred, reduction="none")
        return OWN * own_pairs(surprise).mean() + (1 - OWN) * surprise.mean()

    return fit(stage.plan, model, loss, work, seed + stage.seed)


def score(model: CLIPModel, images: Tensor, ids: Tensor) -> Tensor:
    """Return the cosines (P, N) between prompts (P, 12) and images (N, 3, 32, 32)."""
    pixels = preprocess(images, SIZE, pad)
    vision = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    text = F.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)
    return text @ vision.T


@torch.no_grad()
def annotator_agreement(model: CLIPModel, name: str, batches: int = 40, seed: int = 0) -> Agreement:
    """Compare the model with the annotator of stage `name` on 24 new pairs per batch."""
    prompts, generator = TokenisedPrompts(), stream("agreement", name, seed)
    gains, truths = [], []
    for _ in range(batches):
        batch = comparisons(prompts, 0, generator)
        gains.append(own_pairs(differences(score(model, batch.images, batch.ids))))
        truths.append(own_pairs(differences(batch.utilities)))
    gain, truth = torch.cat(gains), torch.cat(truths)
    right = choice_probability(truth, STAGES[name].temperature)
    ours = torch.where(gain > 0, right, 1 - right).mean().item()
    best = torch.maximum(right, 1 - right).mean().item()
    return Agreement(ours, best, torch.corrcoef(torch.stack([gain, truth]))[0, 1].item())


def export(model: CLIPModel, file: Path) -> None:
    """Write the model in half precision and in the layout of the published HPS file, atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = to_open_clip(model.state_dict())
    with replacing(file) as unfinished:
        save_file({key: value.half().contiguous().clone() for key, value in tensors.items()}, unfinished)


def untrained(stage: PreferenceStage) -> CLIPModel:
    """Return a model of this stage's sizes with random weights."""
    words = tokenizer.build()
    special = dict(bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id)
    text = dict(vocab_size=len(words), max_position_embeddings=tokenizer.LENGTH, hidden_act="gelu", **special)
    vision = dict(image_size=SIZE, patch_size=8, hidden_act="gelu")
    config = CLIPConfig(
        text_config=text | stage.text, vision_config=vision | stage.vision, projection_dim=stage.projection
    )
    return CLIPModel._from_config(config, attn_implementation="sdpa")
