"""What the experiments here cost: experiments/real/cost.md.

Hours are of what network and decoder run in sampling, updates and the last evaluation, at 40 % of an H100's 989 TFLOP/s
in bf16. GiB are their weights, what an update keeps for its backward pass, and SQDF's buffer.
`python experiments/real/count.py [write]`
"""

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from networks import Cost, decoder, network
from omegaconf import DictConfig, OmegaConf

from rdt.config.compose import composed, conf_dir
from rdt.config.plan import plan
from rdt.training.launch import quiet

RESULT = Path(__file__).with_name("cost.md")
NAMES = sorted(file.stem for file in Path(conf_dir(), "experiment/real").glob("[!_]*.yaml"))
SPEED = 0.4 * 989e12  # operations a second
PLANNED = re.compile(r"([\d,]+) (?:network passes|images)")


@dataclass(frozen=True)
class Update:
    """What an update runs: rows of passes, and images, those of its share of a rollout too."""

    forward: float  # beyond the rollout's
    back: float
    held: float  # of these, at one time but for micro-batches
    decoded: float
    climbed: float  # of these, with gradient


def sqdf(cfg: DictConfig) -> Update:
    """Tuned and base, guided, and one look-ahead: gradient through the tuned two rows and the look-ahead."""
    B = cfg.batch_size
    return Update(forward=5 * B, back=3 * B, held=3 * B, decoded=B + B / cfg.method.replay_ratio, climbed=B)


def aig(cfg: DictConfig) -> Update:
    """The last K steps again of the base, for the KL; gradient through the rollout's own two rows of each."""
    B, rows = cfg.batch_size, 2 * cfg.batch_size * cfg.method.K
    return Update(forward=rows, back=rows, held=rows, decoded=B, climbed=B)


def grpo(cfg: DictConfig) -> Update:
    """Every step of what is kept, one at a time: two rows, one with gradient, and for a KL the base's two."""
    m, made = cfg.method, cfg.batch_size / cfg.method.updates_per_rollout
    kept = made * m.get("keep", m.group) / m.group
    rows = kept * m.num_steps
    return Update(forward=(4 if m.kl_coef else 2) * rows, back=rows, held=kept, decoded=made, climbed=0)


UPDATES: dict[str, Callable[[DictConfig], Update]] = {"sqdf": sqdf, "aig": aig, "grpo": grpo, "drift": grpo}


def config(name: str) -> DictConfig:
    """Of an experiment."""
    cfg = composed("config", f"experiment=real/{name}", "logger=none", "output_dir=none")
    OmegaConf.resolve(cfg)
    return cfg


def costs(cfg: DictConfig) -> tuple[Cost, Cost]:
    """Of its network and its decoder."""
    setup = cfg.model.policy.setup
    return network(cfg.model.name, setup.resolution, cfg.model.lora.rank), decoder(setup.resolution, setup.slicing)


def experiment(name: str, cfg: DictConfig) -> list[str]:
    """Its row."""
    sampled, images, evaluated = (int(count.replace(",", "")) for count in PLANNED.findall(plan(cfg)))
    update, n = UPDATES[cfg.method.name](cfg), cfg.iterations
    passes = [sampled, sampled + n * (update.forward + update.back), evaluated]
    row, image = costs(cfg)
    operations = (
        (sampled + evaluated + n * update.forward) * row.forward + n * update.back * row.back
        + (images + n * update.decoded) * image.forward + n * update.climbed * image.back
    )  # fmt: skip
    hours = f"{operations / SPEED / 3600:.2g}"
    return [f"`{name}`", *(f"{count:,.0f}" for count in passes), f"{held(cfg, update) / 2**30:.0f}", hours]


def held(cfg: DictConfig, update: Update) -> float:
    """Bytes that are there when a micro-batch goes back."""
    row, image = costs(cfg)
    share = (cfg.micro_batch_size or cfg.batch_size) / cfg.batch_size
    buffer = cfg.method.get("capacity", 0) * (cfg.model.sampling.num_steps + 1) * 4 * row.latent
    kept = update.held * row.kept + update.climbed * image.kept
    return row.weights + image.weights + buffer + share * kept


def part(name: str, found: Cost) -> list[str]:
    """The row of a network."""
    operations = (f"{count / 1e12:.3g}" for count in (found.forward, found.back))
    return [name, *operations, f"{found.kept / 2**20:,.0f}", f"{found.weights / 2**30:.2f}"]


def parts(configs: Iterable[DictConfig]) -> list[list[str]]:
    """Of every model at its resolution, then of the decoder."""
    models = {f"`{c.model.name}`, {c.model.policy.setup.resolution} px": costs(c)[0] for c in configs}
    decoders = {f"decoder, {side} px": decoder(side, slicing=True) for side in (512, 1024)}
    whole = {"decoder, 512 px, `slicing=false`": decoder(512, slicing=False)}
    return [part(*one) for one in (models | decoders | whole).items()]


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """In Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def text() -> str:
    """Both tables."""
    configs = {name: config(name) for name in NAMES}
    passes = [f"passes to {what}" for what in ("sample", "train", "evaluate")]
    return "\n\n".join([
        "# What the experiments cost, by count",
        "Of a row of a pass, or of an image; on the way back, which MiB are kept for, blocks are computed again:",
        table(["", "TFLOP forward", "TFLOP back", "MiB kept", "GiB of weights"], parts(configs.values())),
        "Of each experiment, `experiment=real/...`:",
        table(["", *passes, "GiB at least", "hours"], (experiment(*one) for one in configs.items())),
    ])  # fmt: skip


if __name__ == "__main__":
    quiet()
    print(made := text())
    if sys.argv[1:] == ["write"]:
        RESULT.write_text(f"{made}\n", encoding="utf-8")
