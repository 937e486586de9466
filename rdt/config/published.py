"""How large published files are: what a first run downloads, and what a scorer takes in memory.

Sizes are those of the files that a run reads, as the hub lists them, to two or three digits. A source that is not here
is named by the plan as one whose size is not known.
"""

from collections.abc import Iterable

DOWNLOADS = {  # GB by source, without its revision
    "hub:stable-diffusion-v1-5/stable-diffusion-v1-5": 4.27,
    "hub:stabilityai/stable-diffusion-xl-base-1.0": 13.9,
    "hub:stabilityai/stable-diffusion-3.5-medium": 16.3,  # 9.5 of them are T5
    "hub:black-forest-labs/FLUX.1-dev": 33.7,
    "hub:latent-consistency/lcm-lora-sdv1-5": 0.13,
    "hub:latent-consistency/lcm-lora-sdxl": 0.39,
    "hub:xswu/HPSv2:HPS_v2.1_compressed.pt": 1.97,
    "hub:xswu/HPSv2:HPS_v2_compressed.pt": 1.97,
    "hub:yuvalkirstain/PickScore_v1": 3.94,
    "hub:openai/clip-vit-large-patch14": 1.71,
    "hub:openai/clip-vit-large-patch14-336": 1.71,
    "hub:trl-lib/ddpo-aesthetic-predictor:aesthetic-model.pth": 0.004,
    "hub:THUDM/ImageReward:ImageReward.pt": 1.79,
    "hub:facebook/dinov2-base": 0.35,
    "hub:CSWRY/VOSR:torch_cache/checkpoints/alexnet-owt-7be5be79.pth": 0.24,
    "hub:chaofengc/IQA-PyTorch-Weights:LPIPS_v0.1_alex-df73285e.pth": 0.0,  # six kilobytes
    "hub:RaphaelLiu/EvalCrafter-Models:pt_inception-2015-12-05-6726825d.pth": 0.1,
}
TOKENIZER = 0.004  # GB of a tokenizer's files
PARAMETERS = {  # millions, of networks that score images in fp32
    "hub:xswu/HPSv2:HPS_v2.1_compressed.pt": 986,
    "hub:xswu/HPSv2:HPS_v2_compressed.pt": 986,
    "hub:yuvalkirstain/PickScore_v1": 986,
    "hub:openai/clip-vit-large-patch14": 428,
    "hub:THUDM/ImageReward:ImageReward.pt": 447,
}


def download(key: str, source: str) -> float | None:
    """Return the GB that a run downloads of a source which a key names; None if that is not known."""
    return TOKENIZER if key.endswith(".tokenizer") else DOWNLOADS.get(unpinned(source))


def scorer_bytes(sources: Iterable[tuple[str, str]]) -> float:
    """Return the bytes of the scorers among (key, source) pairs, each file once, as far as they are known."""
    used = {unpinned(source) for key, source in sources if not key.endswith(".tokenizer")}
    return sum(4e6 * PARAMETERS.get(source, 0) for source in used)


def unpinned(source: str) -> str:
    """Return a source without its revision; of an adapter's file that is the repository's only one, the repository."""
    scheme, _, rest = source.partition(":")
    place, _, file = rest.partition(":")
    whole = f"{scheme}:{place.partition('@')[0]}"
    return whole if whole in DOWNLOADS or not file else f"{whole}:{file}"
