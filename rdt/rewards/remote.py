"""A scorer behind HTTP, for judges that do not fit beside the policy; `rdt.rewards.wire` describes the format."""

from functools import partial

import torch
from torch import Tensor

from rdt.credentials import check_recorded
from rdt.errors import Diverged
from rdt.rewards.base import Reward, blank
from rdt.rewards.client import Endpoint
from rdt.rewards.endpoint import check_url, token
from rdt.rewards.missing import MISSING
from rdt.rewards.wire import FORMATS, request

BODY = 16 << 20  # bytes of a request, as far as one image allows
PIXELS = 1 << 24  # of a request, as far as one image allows


class RemoteReward(Reward):
    """Scores images on a server, in several requests at a time; it has no gradient."""

    differentiable = False

    def __init__(
        self, *, url: str, format: str, batch_size: int, parallel: int, timeout: float, retries: int, missing: str
    ) -> None:
        super().__init__()
        check_recorded({"reward.url": url})
        check_url("reward.url", url)
        token()  # one that cannot be sent is reported here
        for key, value, choices in (("format", format, FORMATS), ("missing", missing, MISSING)):
            if value not in choices:
                raise ValueError(f"reward.{key}={value} is not one of {', '.join(choices)}")
        if min(batch_size, parallel) < 1 or not timeout > 0 or retries < 0:
            numbers = f"batch_size={batch_size} parallel={parallel} timeout={timeout} retries={retries}"
            raise ValueError(f"reward.{numbers}: the first three must be greater than 0, retries at least 0")
        self.endpoint = Endpoint(url, parallel, timeout, retries)
        self.format, self.batch_size, self.missing = format, batch_size, missing

    @torch.no_grad()
    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Return the scores, (B,), in the order of the images; RemoteFailed if every try failed."""
        if self.missing == "skip" and not images.isfinite().all():
            raise Diverged("an image is not finite, which is no missing score that reward.missing=skip leaves out")
        size = self.request_size(images)
        parts = [(images[k : k + size], prompts[k : k + size]) for k in range(0, len(prompts), size)]
        scores = self.endpoint.scores([(partial(request, *part, self.format), len(part[1])) for part in parts])
        return blank(torch.tensor(scores, dtype=torch.float32).to(images.device), images)

    def request_size(self, images: Tensor) -> int:
        """Return how many images a request has: `batch_size`, or as many as BODY and PIXELS hold."""
        pixels = images.shape[-2] * images.shape[-1]
        most = BODY // ((16 if self.format == "float32" else 4) * pixels)  # bytes of an image in base64
        return max(1, min(self.batch_size, most, PIXELS // pixels))
