"""Writes the folder of a finished LoRA with its model card, and uploads it to the hub.

Names and prompts are anyone's words, and a card is YAML, Markdown and Python: each is written so that it stays text.
"""

import json
import shlex
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from rdt import files
from rdt.policy import Policy
from rdt.prompts import read_rows
from rdt.report.hacking import GAP, is_hacked, with_gaps
from rdt.report.read import Run
from rdt.report.tables import card_table, code_span
from rdt.report.text import measured_text
from rdt.result import Result
from rdt.text import folded
from rdt.training import digests
from rdt.training.average import evaluated
from rdt.weights import failure, hub_reason

CARD = """---
{front}---
# {method} on {reward}, {model}, seed {cfg.seed}

A LoRA of rank {cfg.model.lora.rank}, alpha {cfg.model.lora.alpha}, for {source}, trained for
{result.iterations} iterations on {images} images with rdt {version}. `config.yaml` holds all settings.

{use}
`pytorch_lora_weights_kohya.safetensors` is the same adapter under kohya's names, which ComfyUI and others
read.{averaged}

## Its point on the front

{table}
Means over {result.base.n_prompts} held-out prompts with {result.base.n_per_prompt} images each. Base and tuned model
start from the same noise. Brackets hold the 95 % interval of the mean, and of the paired difference to the base.
{roles}
`reward/` are scores of images, more is better; `diversity/` compares the images of one prompt, more is more varied;
`fidelity/` has no better side; `kl_nats` is the divergence from the base.

## What was optimised

The model was trained to raise {reward}, which stands for what people like and is not it. {hacking}
Look at the samples before you trust a score.

The command of the run, with seed and settings:

    {command}

## Samples

Base and tuned model at equal noise, one prompt per row: {prompts}.

![base](base.png) ![tuned](tuned.png)
"""

AVERAGED = """
The weights are a running average over training (trainer.ema.decay={cfg.trainer.ema.decay}); those of the last iteration
are in `raw/`.
"""


def write_lora(policy: Policy, cfg: DictConfig, result: Result, out: Path) -> None:
    """Write lora/: the weights, README.md, config.yaml, and the sample grids that the card shows."""
    samples = out / "samples"
    with files.replacing(out / "lora") as unfinished:
        policy.save_lora(unfinished)
        if average := evaluated(policy):
            policy.save_lora(unfinished / "raw", average)
        digests.seal_lora(unfinished)
        OmegaConf.save(cfg, unfinished / "config.yaml", resolve=True)
        for name in ("base", "tuned"):
            shutil.copyfile(samples / f"{name}.png", unfinished / f"{name}.png")
        prompts = [folded(prompt) for prompt in read_rows(samples)]
        (unfinished / "README.md").write_text(card(cfg, result, prompts), encoding="utf-8")


def card(cfg: DictConfig, result: Result, prompts: list[str]) -> str:
    """Return the model card: how to load the adapter, what it gained, what that cost, and which run trained it."""
    known = with_gaps(result, [str(name) for name in cfg.evaluation.judges])
    return CARD.format(
        cfg=cfg,
        result=result,
        version=version("reward-diversity"),
        front=_front_matter(cfg, known),
        method=code_span(cfg.method.name),
        reward=code_span(cfg.reward.name),
        model=code_span(cfg.model.name),
        source=code_span(cfg.model.policy.source),
        images=result.compute["images"],
        use=_use(cfg),
        averaged=AVERAGED.format(cfg=cfg) if cfg.trainer.ema.decay else "",
        table=card_table(known),
        hacking=_hacking(known),
        command=_one_line(Run(Path(), result, config=OmegaConf.to_container(cfg)).command),
        roles=_roles(result),
        prompts=", ".join(map(code_span, prompts)),
    )


def _use(cfg: DictConfig) -> str:
    """Return how to draw images: with the stock pipeline of diffusers, or with rdt if the base is bundled with it."""
    source = str(cfg.model.policy.source)
    if source.startswith("bundled:"):
        folder = shlex.quote(_one_line(cfg.output_dir))
        draw = f'rdt sample run={folder} prompt="a circle" n=16'
        return f"Its base is bundled with rdt, which draws images with it:\n\n    {draw}\n"
    revision = source.partition("@")[2] if _repository(source) else ""
    arguments = json.dumps(_repository(source) or source) + (f", revision={json.dumps(revision)}" if revision else "")
    lines = [
        "import diffusers",
        f"pipe = diffusers.DiffusionPipeline.from_pretrained({arguments})",
        f"pipe.load_lora_weights({json.dumps(str(cfg.push_to_hub or '.'))})",
    ]
    return "In the folder of this file:\n\n" * (not cfg.push_to_hub) + "".join(f"    {line}\n" for line in lines)


def _hacking(result: Result) -> str:
    """Return the sentences on the hacking gap, if it was measured."""
    gap = result.tuned.scores.get(GAP)
    if gap is None:
        return "No unseen judge was measured, so whether the score was hacked is not known."
    found = (
        f"The hacking gap, its gain less the judges' in standard deviations of the base, is {measured_text(gap.value)}."
    )
    hacked = is_hacked(result, result.tuned.scores, [name.partition("/")[2] for name in result.base.scores])
    return f"{found} The score rose while a judge fell: it was hacked." if hacked else found


def _one_line(text: object) -> str:
    """Return a text on one line, in which no character is special to a terminal."""
    return folded(text).replace("`", "'")


def _roles(result: Result) -> str:
    """Return a sentence that says which rewards were trained on and which are unseen judges."""
    roles = result.roles()
    seen, unseen = ([code_span(name) for name in roles if roles[name] == role] for role in ("trained on", "unseen"))
    return f"Trained on: {', '.join(seen) or 'none'}. Unseen judges: {', '.join(unseen) or 'none'}." if roles else ""


def _front_matter(cfg: DictConfig, result: Result) -> str:
    """Return the card's YAML, from which the hub reads tags, the base model and the scores."""
    words = (cfg.method.name, cfg.reward.name, _repository(str(cfg.model.policy.source)) or "")
    method, reward, repository = (" ".join(str(word).split()) for word in words)  # a line break could end the YAML
    front: dict[str, Any] = {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    front |= {"base_model": repository} if repository else {}
    front["tags"] = ["lora", "text-to-image", "rdt", method, reward]
    metrics = [{"type": name, "value": score.value.mean} for name, score in result.tuned.scores.items()]
    task, prompts = {"type": "text-to-image"}, {"name": f"{result.tuned.n_prompts} held-out prompts", "type": "prompts"}
    results = [{"task": task, "dataset": prompts, "metrics": metrics}]
    front["model-index"] = [{"name": f"{method} on {reward}", "results": results}]
    return yaml.safe_dump(front, sort_keys=False, width=10_000)


def _repository(source: str) -> str | None:
    """Return the name of the hub repository of a source; None if it is not on the hub."""
    scheme, _, name = source.partition(":")
    return name.partition("@")[0] if scheme == "hub" else None


def push(folder: Path, repo: str) -> str:
    """Upload a folder's files to a hub repository, creating it if necessary, and return the address.

    ConnectionError in one line if that fails; the files stay in the folder.
    """
    from huggingface_hub import HfApi

    try:
        if refusal := failure(lambda: HfApi().whoami()):
            raise ConnectionError(refusal)
        HfApi().create_repo(repo, exist_ok=True)
        return str(
            HfApi().upload_folder(repo_id=repo, folder_path=folder, commit_message="Add a LoRA trained with rdt")
        )
    except Exception as error:  # the hub has a dozen unrelated error types
        cure = f"the files are in {folder}; once that is fixed run: hf upload {repo} {folder}"
        raise ConnectionError(f"push_to_hub={repo}: {hub_reason(error)}; {cure}") from None
