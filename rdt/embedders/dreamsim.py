"""DreamSim (Fu et al. 2023) as an embedder, through its own package, which fetches its weights: extra `dreamsim`."""

from functools import lru_cache
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from rdt.embedders.vision import Embedder

SIDE = 224


class DreamSim(Embedder):
    """Returns the package's embedding of images squeezed to a square; its cosine distance is DreamSim."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.float().eval().requires_grad_(False)

    def embed(self, images: Tensor) -> Tensor:
        for extractor in self.model.extractor_list:  # each projects on its `device`, which moving it does not change
            extractor.device = images.device
        square = F.interpolate(images, (SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        return self.model.embed(square)


@lru_cache
def dreamsim(*, kind: str, folder: str) -> DreamSim:
    """Return DreamSim of a kind (ensemble, dino_vitb16, ...), whose package keeps its weights in `folder`.

    ValueError if the package is not installed or cannot fetch its weights.
    """
    try:
        from dreamsim import dreamsim as load
    except (ImportError, RuntimeError) as error:  # torchvision without its operators raises the latter
        raise ValueError(
            f"diversity by DreamSim needs a package that is not installed ({error}): pip install 'rdt[dreamsim]'"
        ) from None
    cache = Path(folder).expanduser()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        model, _ = load(pretrained=True, device="cpu", cache_dir=str(cache), dreamsim_type=kind)
    except OSError as error:
        raise ValueError(
            f"DreamSim's weights could not be fetched to {cache} ({error}); put the files its package fetches there"
        ) from None
    return DreamSim(model)
