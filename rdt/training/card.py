"""Writes the folder of a finished LoRA with its model card, and uploads it to the hub.

Names and prompts are anyone's words, and a card is YAML, Markdown and Python: each is written so that it stays text.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from rdt import files
from rdt.policy import Policy
from rdt.prompts import read_rows
from rdt.report.tables import card_table, code_span
from rdt.result import Result
from rdt.text import folded
from rdt.training import digests
from rdt.weights import failure, hub_reason

CARD = """---
{front}---
# {method} on {reward}, {model}, seed {cfg.seed}

A LoRA of rank {cfg.model.lora.rank}, alpha {cfg.model.lora.alpha}, for {source}, trained for
{result.iterations} iterations on {images} images with rdt. `config.yaml` holds all settings.

    pipe = diffusers.DiffusionPipeline.from_pretrained({pipeline})
    pipe.load_lora_weights({lora})

`pytorch_lora_weights_kohya.safetensors` is the same adapter under kohya's names, which ComfyUI and others read.

## Its point on the front

{table}
Means over {result.base.n_prompts} held-out prompts with {result.base.n_per_prompt} images each. Base and tuned model
start from the same noise. Brackets hold the 95 % interval of the mean. {roles}

## Samples

Base and tuned model at equal noise, one prompt per row: {prompts}.

![base](base.png) ![tuned](tuned.png)
"""


def write_lora(policy: Policy, cfg: DictConfig, result: Result, out: Path) -> None:
    """Write lora/: the weights, README.md, config.yaml, and the sample grids that the card shows."""
    samples = out / "samples"
    with files.replacing(out / "lora") as unfinished:
        policy.save_lora(unfinished)
        digests.seal_lora(unfinished)
        OmegaConf.save(cfg, unfinished / "config.yaml", resolve=True)
        for name in ("base", "tuned"):
            shutil.copyfile(samples / f"{name}.png", unfinished / f"{name}.png")
        prompts = [folded(prompt) for prompt in read_rows(samples)]
        (unfinished / "README.md").write_text(card(cfg, result, prompts), encoding="utf-8")


def card(cfg: DictConfig, result: Result, prompts: list[str]) -> str:
    """Return the model card: how to load the adapter, what it gained, what that cost, and which run trained it."""
    source = str(cfg.model.policy.source)
    return CARD.format(
        cfg=cfg,
        result=result,
        front=_front_matter(cfg),
        method=code_span(cfg.method.name),
        reward=code_span(cfg.reward.name),
        model=code_span(cfg.model.name),
        source=code_span(source),
        images=result.compute["images"],
        pipeline=json.dumps(_repository(source) or source),
        lora=json.dumps(str(cfg.push_to_hub or "this/folder")),
        table=card_table(result),
        roles=_roles(result),
        prompts=", ".join(map(code_span, prompts)),
    )


def _roles(result: Result) -> str:
    """Return a sentence that says which rewards were trained on and which are unseen judges."""
    roles = result.roles()
    seen, unseen = ([code_span(name) for name in roles if roles[name] == role] for role in ("trained on", "unseen"))
    return f"Trained on: {', '.join(seen) or 'none'}. Unseen judges: {', '.join(unseen) or 'none'}." if roles else ""


def _front_matter(cfg: DictConfig) -> str:
    """Return the card's YAML, from which the hub reads tags and the base model."""
    words = (cfg.method.name, cfg.reward.name, _repository(str(cfg.model.policy.source)) or "")
    method, reward, repository = (" ".join(str(word).split()) for word in words)  # a line break could end the YAML
    front: dict[str, Any] = {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    front |= {"base_model": repository} if repository else {}
    front["tags"] = ["lora", "text-to-image", "rdt", method, reward]
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
