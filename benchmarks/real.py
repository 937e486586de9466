"""SD 1.5 at 512 px and SDXL at 1024 px, random weights of full size in bf16: benchmarks/results/real.csv.

An iteration of SQDF and an evaluation along annealed guidance, by the code of a real run; which attention ran; how far
bf16 is from fp32. Without a CUDA GPU tiny checkpoints in the published formats stand in, and nothing is recorded.
`python benchmarks/real.py`
"""

import csv
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from rdt.config.compose import composed
from rdt.policy import Policy
from rdt.rollout import Noise
from rdt.training import folder, record
from rdt.training.experiment import Experiment
from rdt.training.launch import built, make_trainer, quiet

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import fullsize  # noqa: E402

from worlds.model_checkpoints import SIDE  # noqa: E402

RESULT = ROOT / "benchmarks/results/real.csv"
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
BATCH = {"sd15": 16, "sdxl": 4}
BOUNDS = {"base": 0.05, "tuned": 0.05, "images": 0.02}  # |bf16 - fp32| / |fp32|, and of images the mean difference
COMMON = [
    "method=sqdf", "guidance=aig", "reward=aesthetic", "reward.checkpointing=true", "diversity=clip",
    "~diversity.overall.clip", "logger=none", "iterations=2", "model.policy.setup.slicing=true", "resume=never",
    "evaluation.every=0", "evaluation.prompts=2", "evaluation.small_prompts=1", "evaluation.kl_images=0",
]  # fmt: skip


def config(model: str, root: Path, *more: str) -> DictConfig:
    """A run on the checkpoints below root."""
    sizes = [f"batch_size={BATCH[model]}", f"evaluation.images_per_prompt={BATCH[model] // 2}"]
    places = [*fullsize.named(root / model), f"cache={root}/cache", f"output_dir={root}/{model}-out"]
    small = [] if GPU else [f"model.policy.setup.resolution={SIDE}", "model.sampling.num_steps=3", "iterations=1"]
    cfg = composed("config", f"model={model}", *COMMON, *places, *sizes, *small, *more)
    OmegaConf.resolve(cfg)
    return cfg


class Last(L.Callback):
    """What the last iteration takes: those before warm up."""

    def on_train_batch_start(self, trainer: L.Trainer, method: L.LightningModule, *_: object) -> None:
        self.cost = stopwatch(method.policy)

    def on_train_batch_end(self, *_: object) -> None:
        self.taken = self.cost()


def stopwatch(policy: Policy) -> Callable[[], dict[str, float]]:
    """Starts; what it returns tells seconds, passes, TFLOP/s and peak memory since."""
    before, flops = policy.passes + policy.backward_passes, policy.flops_per_pass
    if GPU:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()

    def stop() -> dict[str, float]:
        if GPU:
            torch.cuda.synchronize()
        seconds, passes = time.perf_counter() - started, policy.passes + policy.backward_passes - before
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        peak = torch.cuda.max_memory_allocated() if GPU else host
        return {"seconds": seconds, "passes": passes, "tflops": passes * flops / seconds / 1e12, "gib": peak / 2**30}

    return stop


def measured(cfg: DictConfig) -> list[dict[str, object]]:
    """A row for the SQDF iteration, one for the evaluation of base and AIG."""
    experiment, last, out = built(cfg), Last(), Path(cfg.output_dir)
    folder.begin(cfg, out)
    trainer = make_trainer(experiment, out)
    trainer.callbacks.append(last)
    trainer.fit(experiment.method, experiment.data)
    experiment.method.to(trainer.strategy.root_device)  # Lightning moved it to the host
    evaluation = stopwatch(experiment.policy)
    record.write(experiment, trainer, out)
    images = 2 * cfg.evaluation.prompts * cfg.evaluation.images_per_prompt
    done = {"sqdf": (cfg.batch_size, last.taken), "aig": (images, evaluation())}
    ran = {"pixels": cfg.model.policy.setup.resolution, "attention": attention(experiment.policy)}
    rows = [{"images": n, "images_per_second": n / taken["seconds"]} | taken for n, taken in done.values()]
    told = [{name: f"{value:.4g}" for name, value in row.items()} for row in rows]
    return [{"model": cfg.model.name, "work": work} | ran | row for work, row in zip(done, told, strict=True)]


def looked_at(policy: Policy) -> tuple[Tensor, Tensor, object]:
    """Two noises, a time and the conditions of two prompts."""
    noise = Noise(seed=0, purpose="benchmark", indices=range(2), shape=policy.latent_shape, device=policy.device)
    return noise.initial(), policy.process.times(4)[1], policy.encode(["cat", "dog"])


def attention(policy: Policy) -> str:
    """The backends of scaled_dot_product_attention that a pass ran."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as seen:
        policy.to(DEVICE).tuned(*looked_at(policy))
    start = "aten::_scaled_dot_product_"
    ran = sorted({event.key.removeprefix(start) for event in seen.key_averages() if event.key.startswith(start)})
    return "+".join(ran) or "none"


@torch.no_grad()
def drawn(cfg: DictConfig) -> dict[str, Tensor]:
    """Outputs of the base and of an adapter that is not zero, and decoded latents, in fp32 on the host."""
    policy = Experiment(cfg).policy.to(DEVICE)
    torch.manual_seed(1)
    policy.load_lora({key: 0.05 * torch.randn(value.shape) for key, value in policy.lora().items()})
    x, t, cond = looked_at(policy)
    found = {"base": policy.base(x, t, cond), "tuned": policy.tuned(x, t, cond), "images": policy.decode(x)}
    return {name: value.float().cpu() for name, value in found.items()}


def apart(half: dict[str, Tensor], full: dict[str, Tensor]) -> dict[str, float]:
    """How far bf16 is from fp32, in the units of BOUNDS."""
    norms = {name: ((half[name] - full[name]).norm() / full[name].norm()).item() for name in ("base", "tuned")}
    return norms | {"images": (half["images"] - full["images"]).abs().mean().item()}


def main() -> int:
    """Exit status 0 where bf16 is as near to fp32 as it should be."""
    quiet()
    if not GPU:
        print("no CUDA GPU: tiny random checkpoints in the published formats stand in, and nothing is recorded")
    torch.backends.cudnn.allow_tf32 = False  # so that fp32 is fp32
    rows, wrong = [], []
    for model in BATCH:
        with tempfile.TemporaryDirectory(prefix="rdt-real-") as scratch:
            root = Path(scratch)
            fullsize.write(model, root / model, DEVICE if GPU else None)
            far = apart(*(drawn(config(model, root, f"precision={kind}")) for kind in ("bf16", "fp32")))
            rows += measured(config(model, root))
        wrong += [f"{model}/{name}" for name, value in far.items() if not value <= BOUNDS[name]]
        print(f"{model}: bf16 from fp32: " + ", ".join(f"{k} {v:.4f} (bound {BOUNDS[k]})" for k, v in far.items()))
        for row in rows[-2:]:
            print(", ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    if GPU:
        recorded(rows)
    if wrong:
        print(f"beyond its bound: {', '.join(wrong)}")
    return len(wrong)


def recorded(rows: list[dict[str, object]]) -> None:
    """Into the table, in place of what this hardware had there."""
    hardware = {"hardware": torch.cuda.get_device_name(), "torch": torch.__version__}
    kept = list(csv.DictReader(RESULT.open(encoding="utf-8", newline=""))) if RESULT.is_file() else []
    new = [hardware | row for row in rows]
    RESULT.parent.mkdir(exist_ok=True)
    with RESULT.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(new[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*(row for row in kept if row["hardware"] != hardware["hardware"]), *new])


if __name__ == "__main__":
    sys.exit(main())
