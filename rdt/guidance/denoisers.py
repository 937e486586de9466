"""Denoisers made of denoisers: classifier-free guidance, and annealed importance guidance (Jena et al. 2409.06493).

A sampler hands its shared time over as a () tensor on the host, so `anneal` reads it without waiting for the device.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rdt.cond import Cond, Denoiser
from rdt.guidance.schedules import Schedule

Pair = Callable[[Tensor, Tensor, Cond], tuple[Tensor, Tensor]]  # (x, t, cond) -> outputs of base and tuned


def cfg(denoiser: Denoiser, empty: Cond, scale: float) -> Denoiser:
    """u + scale (c - u) in one doubled batch, `empty` (1 row) being u's condition; scale 1 is the denoiser itself."""

    def guided(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        both = cond.cat(empty.to(x.device)[torch.zeros(len(x), dtype=torch.long, device=x.device)], cond)
        u, c = denoiser(torch.cat([x, x]), torch.cat([t, t]) if t.ndim else t, both).chunk(2)
        return u + scale * (c - u)

    return denoiser if scale == 1 else guided


def cfg_detached(denoiser: Denoiser, empty: Cond, scale: float) -> Denoiser:
    """`cfg` with no gradient through u: as many passes forward, half as many backward."""

    def guided(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        c = denoiser(x, t, cond)
        with torch.no_grad():
            u = denoiser(x, t, empty.to(x.device)[torch.zeros(len(x), dtype=torch.long, device=x.device)])
        return u + scale * (c - u)

    return denoiser if scale == 1 else guided


def anneal(base: Denoiser, tuned: Denoiser, schedule: Schedule, times: Tensor, *, pair: Pair | None = None) -> Denoiser:
    """(1 - g_i) base + g_i tuned on the grid `times` (T + 1,); where g_i is 0 or 1 the other pass is not run.

    `pair` gives both outputs at one state, where there is a faster way than one after the other.
    """
    grid = times.tolist()
    weights = {t: schedule(i / (len(grid) - 1)) for i, t in enumerate(grid[:-1])}

    def annealed(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        weight = _at(t, weights)
        if weight in (0, 1):
            return (tuned if weight else base)(x, t, cond)
        from_base, from_tuned = pair(x, t, cond) if pair else (base(x, t, cond), tuned(x, t, cond))
        return (1 - weight) * from_base + weight * from_tuned

    return annealed


def remembered(denoiser: Denoiser) -> Denoiser:
    """The denoiser, answering from memory where it is asked for the states it last saw at that time: a shared prefix.

    Only for one that never changes, as the base. Rows are remembered by how many they were, since samples and the few
    of them whose KL is measured take turns; what is recalled is what these very rows gave, bit for bit.
    """
    seen: dict[tuple[float, int], tuple[Tensor, Tensor, Tensor]] = {}  # by time and rows: x, embeds, output

    def recalled(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        if t.ndim:
            return denoiser(x, t, cond)
        place = (t.item(), len(x))
        known = seen.get(place)
        if known is None or not (known[0].equal(x) and known[1].equal(cond.embeds)):
            known = seen[place] = (x, cond.embeds, denoiser(x, t, cond))
        return known[2]

    return recalled


def _at(t: Tensor, weights: dict[float, float]) -> float:
    if t.ndim:
        raise ValueError(f"t has shape {tuple(t.shape)}; annealing goes by the shared time of a rollout, shape ()")
    if t.item() not in weights:
        raise ValueError(f"t={t.item()} is none of the {len(weights)} times that anneal was built for")
    return weights[t.item()]
