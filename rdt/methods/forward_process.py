"""Forward-process matching: clean samples are noised, and a network's outputs there are compared with others.

Tilt, DiffusionNFT and AWM differ in where the clean samples come from and in how they weigh the comparisons. A clean
sample x_0 is noised to x_t = alpha_t x_0 + sigma_t e. The network's error there, q, is its output less the one that it
is trained to give, and the distance of two views is the difference of their outputs. Both are measured in one space:
clean samples ("x0"), velocities or noises, which differ by a factor of the time alone (`Process.difference`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from rdt.cond import Cond
from rdt.policy import Denoiser
from rdt.process import Process

TIME_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {  # of sigma_t, which is t on a flow
    "uniform": lambda sigma: sigma**0,
    "t": lambda sigma: sigma,
    "t2": lambda sigma: sigma**2,
}


@dataclass(frozen=True)
class Noised:
    """Hold B clean samples that were noised, one time for each."""

    process: Process
    x: Tensor  # (B, *latent), x_t
    t: Tensor  # (B,)
    target: Tensor  # (B, *latent), the output that the network is trained to give
    cond: Cond

    @staticmethod
    def of(process: Process, x0: Tensor, noise: Tensor, t: Tensor, cond: Cond) -> "Noised":
        """Return clean samples x0 (B, *latent), noised to the times t (B,)."""
        return Noised(process, process.perturb(x0, noise, t), t, process.target(x0, noise, t), cond)

    def output(self, view: Denoiser) -> Tensor:
        """Return the output of a view, (B, *latent), in the precision of the samples."""
        return view(self.x, self.t, self.cond).to(self.x.dtype)

    def error(self, output: Tensor, space: str | None = None) -> Tensor:
        """Return the error q of a network's output, (B, *latent), in a space of `rdt.process.SPACES`."""
        return self.process.difference(output, self.target, self.t, space)

    def distance(self, output: Tensor, other: Tensor, space: str | None = None) -> Tensor:
        """Return the mean square of two outputs' difference, (B,)."""
        return mean_square(self.process.difference(output, other, self.t, space))

    def nats(self, output: Tensor, other: Tensor, t_next: Tensor, eta: float) -> Tensor:
        """Return the KL of two outputs' sampler steps to `t_next` (B,), in nats, (B,); 0 if eta is 0."""
        ours, theirs = (self.process.transition(one, self.x, self.t, t_next, eta) for one in (output, other))
        return ours.kl(theirs)


def mean_square(x: Tensor) -> Tensor:
    """Return the mean square of each sample, (B, ...) -> (B,)."""
    return x.square().flatten(1).mean(1)
