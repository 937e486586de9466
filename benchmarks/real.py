"""Measure SD 1.5 at 512 px and SDXL at 1024 px with random weights of full size in bf16.

`python benchmarks/real.py` times an iteration of SQDF and an evaluation along annealed guidance with the code of a real
run, names the attention backend that ran, compares bf16 with fp32, and writes benchmarks/results/real.csv. Without a
CUDA GPU it uses tiny checkpoints in the published formats and writes nothing.
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
from rdt.training import folder, record
from rdt.training.experiment import Experiment
from rdt.training.launch import build, evaluate, make_trainer
from rdt.training.silence import silence_libraries

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from worlds import full_size_checkpoints  # noqa: E402
from worlds.model_checkpoints import SIDE  # noqa: E402

RESULT = ROOT / "benchmarks/results/real.csv"
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
BATCH = {"sd15": 16, "sdxl": 4}
BOUNDS = {"base": 0.05, "tuned": 0.05, "images": 0.02}  # of |bf16 - fp32| / |fp32|; for images, of the mean difference
COMMON = [
    "method=sqdf", "guidance=aig", "reward=aesthetic", "reward.checkpointing=true", "diversity=clip",
    "~diversity.overall.clip", "logger=none", "iterations=2", "model.policy.setup.slicing=true", "resume=never",
    "evaluation.every=0", "evaluation.prompts=2", "evaluation.small_prompts=1", "evaluation.kl_images=0",
]  # fmt: skip


def config(model: str, root: Path, *more: str) -> DictConfig:
    """Return the config of a run on the checkpoints below root."""
    sizes = [f"batch_size={BATCH[model]}", f"evaluation.images_per_prompt={BATCH[model] // 2}"]
    places = [*full_size_checkpoints.named(root / model), f"cache={root}/cache", f"output_dir={root}/{model}-out"]
    small = [] if GPU else [f"model.policy.setup.resolution={SIDE}", "model.sampling.num_steps=3", "iterations=1"]
    cfg = composed("config", f"model={model}", *COMMON, *places, *sizes, *small, *more)
    OmegaConf.resolve(cfg)
    return cfg


class LastIteration(L.Callback):
    """Measures the last iteration; those before it warm up."""

    def on_train_batch_start(self, trainer: L.Trainer, method: L.LightningModule, *_: object) -> None:
        self.stop = stopwatch(method.policy)

    def on_train_batch_end(self, *_: object) -> None:
        self.measured = self.stop()


def stopwatch(policy: Policy) -> Callable[[], dict[str, float]]:
    """Start a stopwatch; return a function that returns the seconds, passes, TFLOP/s and peak GiB since then."""
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
    """Return a row for the SQDF iteration and one for the evaluation of base and AIG."""
    parts, last, out = build(cfg), LastIteration(), Path(cfg.output_dir)
    folder.begin(cfg, out)
    trainer = make_trainer(parts, out, start=None)
    trainer.callbacks.append(last)
    trainer.fit(parts.method, parts.data)
    cost = record.training_cost(parts.method, trainer.world_size)
    parts.method.to(trainer.strategy.root_device)  # Lightning moved it to the host
    evaluation = stopwatch(parts.method.policy)
    record.write_record(parts.experiment, parts.curve, evaluate(parts, trainer), cost, out)
    images = 2 * cfg.evaluation.prompts * cfg.evaluation.images_per_prompt
    done = {"sqdf": (cfg.batch_size, last.measured), "aig": (images, evaluation())}
    setup = {"pixels": cfg.model.policy.setup.resolution, "attention": attention(parts.method.policy)}
    rows = [{"images": n, "images_per_second": n / cost["seconds"]} | cost for n, cost in done.values()]
    cells = [{name: f"{value:.4g}" for name, value in row.items()} for row in rows]
    return [{"model": cfg.model.name, "work": work} | setup | row for work, row in zip(done, cells, strict=True)]


def inputs(policy: Policy) -> tuple[Tensor, Tensor, object]:
    """Return the noise of two samples, a time and the conditions of two prompts."""
    noise = policy.noise(0, "benchmark", range(2))
    return noise.initial(), policy.process.times(4)[1], policy.encode(["cat", "dog"])


def attention(policy: Policy) -> str:
    """Return the names of the scaled_dot_product_attention backends that a pass runs."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        policy.to(DEVICE).tuned(*inputs(policy))
    start = "aten::_scaled_dot_product_"
    ran = sorted({event.key.removeprefix(start) for event in profiler.key_averages() if event.key.startswith(start)})
    return "+".join(ran) or "none"


@torch.no_grad()
def outputs(cfg: DictConfig) -> dict[str, Tensor]:
    """Return the outputs of the base and of a random adapter, and decoded latents, in fp32 on the CPU."""
    policy = Experiment(cfg).policy.to(DEVICE)
    torch.manual_seed(1)
    policy.load_lora({key: 0.05 * torch.randn(value.shape) for key, value in policy.lora().items()})
    x, t, cond = inputs(policy)
    found = {"base": policy.base(x, t, cond), "tuned": policy.tuned(x, t, cond), "images": policy.decode(x)}
    return {name: value.float().cpu() for name, value in found.items()}


def distances(half: dict[str, Tensor], full: dict[str, Tensor]) -> dict[str, float]:
    """Return the distances of bf16 outputs from fp32 ones, in the units of BOUNDS."""
    norms = {name: ((half[name] - full[name]).norm() / full[name].norm()).item() for name in ("base", "tuned")}
    return norms | {"images": (half["images"] - full["images"]).abs().mean().item()}


def main() -> int:
    """Run both models; return the number of bf16 outputs that are too far from fp32, the exit status."""
    silence_libraries()
    if not GPU:
        print("no CUDA GPU: tiny random checkpoints in the published formats are measured, and nothing is recorded")
    torch.backends.cudnn.allow_tf32 = False  # TF32 would round the fp32 reference
    rows, wrong = [], []
    for model in BATCH:
        with tempfile.TemporaryDirectory(prefix="rdt-real-") as scratch:
            root = Path(scratch)
            full_size_checkpoints.write(model, root / model, DEVICE if GPU else None)
            far = distances(*(outputs(config(model, root, f"precision={kind}")) for kind in ("bf16", "fp32")))
            rows += measured(config(model, root))
        wrong += [f"{model}/{name}" for name, value in far.items() if not value <= BOUNDS[name]]
        print(f"{model}: bf16 from fp32: " + ", ".join(f"{k} {v:.4f} (bound {BOUNDS[k]})" for k, v in far.items()))
        for row in rows[-2:]:
            print(", ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    if GPU:
        record_rows(rows)
    if wrong:
        print(f"further from fp32 than the bound: {', '.join(wrong)}")
    return len(wrong)


def record_rows(rows: list[dict[str, object]]) -> None:
    """Write the rows into the table, in place of earlier rows of this hardware."""
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
