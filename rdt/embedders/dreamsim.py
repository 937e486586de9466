"""DreamSim (Fu et al. 2023), through its own package, the extra `dreamsim`, which fetches its weights itself."""

from functools import lru_cache
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from rdt.embedders.vision import Embedder

SIDE = 224


class DreamSim(Embedder):
    """The package's embedding of images squeezed to a square; cosine distance is DreamSim."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.float().eval().requires_grad_(False)

    def embed(self, images: Tensor) -> Tensor:
        for extractor in self.model.extractor_list:  # it projects where it was loaded to, wherever it has gone since
            extractor.device = images.device
        square = F.interpolate(images, (SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        return self.model.embed(square)


@lru_cache
def dreamsim(*, kind: str, folder: str) -> DreamSim:
    """DreamSim of a kind (ensemble, dino_vitb16, ...), its weights kept in `folder`."""
    try:
        from dreamsim import dreamsim as load
    except (ImportError, RuntimeError) as error:  # torchvision without its operators raises the latter
        raise ValueError(
            f"diversity by DreamSim needs a package that is not there ({error}): "
            "pip install -c constraints.txt -e '.[dreamsim]'"
        ) from None
    place = Path(folder).expanduser()
    try:
        place.mkdir(parents=True, exist_ok=True)
        model, _ = load(pretrained=True, device="cpu", cache_dir=str(place), dreamsim_type=kind)
    except OSError as error:
        raise ValueError(
            f"DreamSim's weights did not come into {place} ({error}); put there what its package fetches"
        ) from None
    return DreamSim(model)
