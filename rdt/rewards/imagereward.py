"""ImageReward (Xu et al., arXiv 2304.05977): BLIP reads the prompt beside the image, a head makes a score of it."""

from functools import lru_cache

import torch
from torch import Tensor, nn
from transformers import BertTokenizer, BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from rdt.checkpoints import load_tensors
from rdt.rewards.base import Reward
from rdt.rewards.blip import blip
from rdt.rewards.preprocess import crop, preprocess
from rdt.rewards.towers import head, pinned, recompute, words

MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the published model's scores
LENGTH = 35  # tokens; longer prompts are cut
CACHE = 4096  # prompts whose tokens are kept


class ImageReward(Reward):
    """About -2 to 2; a prompt is tokenised once."""

    def __init__(
        self, *, vision: BlipVisionModel, text: BlipTextModel, head: nn.Sequential, tokenizer: BertTokenizer,
        interpolation: str,
    ) -> None:  # fmt: skip
        super().__init__()
        self.vision, self.text, self.head = vision, text, head
        self.tokenizer, self.interpolation = tokenizer, interpolation
        self._tokens = lru_cache(CACHE)(self._tokenise)
        self.float().eval().requires_grad_(False)

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], B prompts -> (B,); gradient reaches the images only."""
        with torch.autocast(images.device.type, enabled=False):
            pixels = preprocess(images, self.vision.config.image_size, crop, self.interpolation)
            seen = self.vision(pixel_values=pixels).last_hidden_state
            ids, mask = (tokens.to(seen.device) for tokens in self.tokens(prompts))
            read = self.text(
                ids, attention_mask=mask, encoder_hidden_states=seen, is_decoder=False,
                encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
            ).last_hidden_state[:, 0]  # fmt: skip
            return (self.head(read).squeeze(-1) - MEAN) / STD

    def tokens(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask of the prompts, (B, 35) each; what BLIP reads of them depends on the image, and is not kept."""
        ids, masks = zip(*map(self._tokens, prompts), strict=True)
        return torch.stack(ids), torch.stack(masks)

    def _tokenise(self, prompt: str) -> tuple[Tensor, Tensor]:
        said = self.tokenizer(prompt, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
        return said.input_ids[0], said.attention_mask[0]


def imagereward(
    *, checkpoint: str, sha256: str | None, tokenizer: str, vision_heads: int, text_heads: int,
    interpolation: str, checkpointing: bool,
) -> ImageReward:  # fmt: skip
    """From the published ImageReward.pt; all sizes but the head counts are read from the shapes of its tensors."""
    vision, text, layers = blip(load_tensors(pinned(checkpoint, sha256)), vision_heads, text_heads)
    if checkpointing:
        recompute([*vision.encoder.layers, *text.encoder.layer])
    return ImageReward(
        vision=vision, text=text, head=head(layers), tokenizer=words(BertTokenizer, tokenizer),
        interpolation=interpolation,
    )  # fmt: skip
