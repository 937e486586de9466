"""Compares what two checkouts of rdt compose: every model with every method, every experiment, documented overrides.

    python benchmarks/compare/configs.py record <checkout> <configs.json>
    python benchmarks/compare/configs.py diff <configs.json> <configs.json>

`diff` prints every key that was added, removed or changed, with the number of jobs in which it was. Keys of the first
recording that have moved since are compared at their new place: MOVED, RENAMED and NEW say which.
"""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import recordings

METHODS = ("aig", "alignprop", "bbo", "ddpo", "draft", "draft_lv", "draft_plus", "drift", "grpo", "refl", "sqdf")
MODELS = ("shapes", "shapes_flow", "sd15", "sdxl", "sd3", "flux")
REWARDS = ("hps", "hps_v2", "pickscore", "imagereward", "aesthetic", "clipscore", "jpeg", "mixture")
OVERRIDES = (
    ["reward=gold", "method=grpo"], ["guidance=aig", "guidance.schedule=step"], ["guidance=cads"],
    ["guidance=aig", "guidance.power=2"], ["guidance=lora_scale"], ["sweep=aig"], ["sweep=lora_scale"],
    ["sweep=guidance", "method=draft"], ["method.gamma=0.95"], ["method=draft_plus", "method.kl_coef=0.1"],
    ["method=bbo", "reward=gold", "method.surrogate=ucb"], ["without=sqdf/replay"], ["without=sqdf/discount"],
    ["without=sqdf/consistency"], ["method=drift", "without=drift/concentration"], ["logger=csv"], ["logger=none"],
    ["method=drift", "without=drift/prompt_noise"], ["method=drift", "without=drift/shaping"], ["logger=wandb"],
    ["method.look_ahead=tweedie"], ["micro_batch_size=4", "seed=3", "iterations=7"], ["diversity=clip"],
    ["model=sd15", "diversity=dreamsim"], ["model=sd15", "diversity=lpips"], ["model=sd15", "diversity=inception"],
    ["prompts=file", "prompts.train_file=a.txt", "prompts.held_out_file=b.txt"], ["reward=remote", "reward.url=http://x"],
    ["model=sd15", "prompts=hpdv2"], ["model=sd15", "prompts=pickapic"], ["constraint.kl.max=20"], ["sweep=none"],
    ["model=sd15", "reward=hps", "model.lora.rank=32"], ["reward=jpeg", "reward.quality=80"], ["precision=bf16"],
)  # fmt: skip
WEIGHTS = "checkpoint|sha256|tokenizer|vision_heads|text_heads|backbone"
MOVED = (  # (an old key, its new key): "" if the value was a copy of another key's, or is the default in the code
    (r"(method|guidance|reward|reward\.parts\.\w+)\.module\.(_partial_|_convert_)", ""),
    (r"method\.module\.surrogate\..*|method\.surrogates\.\w+\.(features|beta).*", ""),  # of method.surrogates, features
    (r"guidance\.(schedules|knobs|module\.schedule)\..*|guidance\.knob", ""),  # of guidance.power, fraction, constant
    (r"reward\.module\.parts\..*", ""),  # of reward.parts
    (r"model\.policy\.(rank|alpha|targets)", ""),  # of model.lora
    (r"method\.curves\.schedule\.exponent", "curves.power"),
    (r"(reward|reward\.parts\.\w+)\.module\.(" + WEIGHTS + ")", r"\1.weights.\2"),
    (r"(evaluation\.judges\.\w+|method\.features)\.(" + WEIGHTS + ")", r"\1.weights.\2"),
    (r"(method|guidance|reward|reward\.parts\.\w+)\.module\.(.+)", r"\1.\2"),
)
RENAMED = {
    "rdt.guidance.aig": "rdt.guidance.AnnealedImportance",
    "rdt.guidance.cads": "rdt.guidance.ConditionAnnealing",
    "rdt.guidance.lora_scale": "rdt.guidance.AdapterScale",
    "rdt.guidance.tuned": "rdt.guidance.ClassifierFree",
    "rdt.methods.bbo.BBO": "rdt.methods.bbo.build",
    "rdt.parts.Setup": "rdt.policy.Setup",
    "rdt.prompt_sets.joined": "rdt.prompts.joined",
    "rdt.prompt_sets.packaged": "rdt.prompts.packaged",
    "rdt.prompt_sets.without": "rdt.prompts.without",
    "rdt.rewards.bootstrap.Bootstrap": "rdt.rewards.surrogate.Bootstrap",
    "rdt.rewards.bootstrap.Descent": "rdt.rewards.surrogate.Fit",
    "rdt.rewards.mixture.Mixture": "rdt.rewards.mixture.mixture",
}
NEW = re.compile(  # keys without a value of their own: rules, plans, interpolated copies, and how a value is looked up
    r"(.*\.)?rules\..*|method\.plan\..*|model\.look_ahead|tuned\.resolution|guidance\.knob.*|method\.features\.weights\.sha256"
    r"|method\.surrogates\.\w+\._partial_|reward\._recursive_"
)
DUMP = """
import json, sys
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
found = {}
for job in json.load(sys.stdin):
    with initialize_config_dir(sys.argv[1], version_base="1.3"):
        try:
            cfg = compose("config", [*job, "output_dir=out"])
            found[" ".join(job)] = OmegaConf.to_container(cfg, resolve=True)
        except Exception as error:
            found[" ".join(job)] = {"error": f"{type(error).__name__}: {error}"}
json.dump(found, sys.stdout)
"""


def jobs(checkout: Path) -> list[list[str]]:
    """Return the override lists to compose."""
    experiments = sorted((checkout / "conf" / "experiment").rglob("*.yaml"))
    names = [file.relative_to(checkout / "conf" / "experiment").with_suffix("").as_posix() for file in experiments]
    return [
        *([f"model={model}", f"method={method}"] for model in MODELS for method in METHODS),
        *(["model=sd15", f"reward={reward}"] for reward in REWARDS),
        *([f"experiment={name}"] for name in names if not name.rpartition("/")[2].startswith("_")),
        *OVERRIDES,
    ]


def record(checkout: Path) -> dict[str, Any]:
    """Compose every job with the checkout's own code, in a new process, and return the resolved configs."""
    run = subprocess.run(
        [sys.executable, "-c", DUMP, str(checkout / "conf")],
        input=json.dumps(jobs(checkout)), capture_output=True, text=True, cwd=checkout, check=True,
    )  # fmt: skip
    return json.loads(run.stdout)


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return a nested config as dotted keys."""
    if not isinstance(tree, dict) or not tree:
        return {prefix.rstrip("."): tree}
    return {key: value for name, branch in tree.items() for key, value in flat(branch, f"{prefix}{name}.").items()}


def moved(config: dict[str, Any]) -> dict[str, Any]:
    """Return a flat config with its keys at their new places; ValueError if two keys of one place differ."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        place = next((re.sub(old, new, key) for old, new in MOVED if re.fullmatch(old, key)), key)
        value = RENAMED.get(value, value) if isinstance(value, str) else value
        if place and found.setdefault(place, value) != value:
            raise ValueError(f"{key}={value} differs from {place}={found[place]}")
    return found


def diff(before: dict[str, Any], after: dict[str, Any]) -> Counter[str]:
    """Return every difference with the number of jobs that have it."""
    found: Counter[str] = Counter()
    for job in before | after:
        if job not in before or job not in after:
            found[f"job {job}: only {'before' if job in before else 'after'}"] += 1
            continue
        was, now = moved(flat(before[job])), moved(flat(after[job]))
        for key in (key for key in was.keys() | now.keys() if not NEW.fullmatch(key)):
            if key not in now:
                found[f"- {key}={was[key]}"] += 1
            elif key not in was:
                found[f"+ {key}={now[key]}"] += 1
            elif was[key] != now[key]:
                found[f"! {key}: {was[key]} -> {now[key]} ({job})"] += 1
    return found


def compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Print every difference with the number of jobs that have it."""
    found = diff(before, after)
    print(f"{len(before)} jobs before, {len(after)} after, {len(found)} differences")
    print(*(f"{count:4d} {line}" for line, count in sorted(found.items())), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(recordings.run(record, compare))
