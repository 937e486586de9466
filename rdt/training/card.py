"""The LoRA's folder: the adapter in the formats that others read, and a model card that says what it is.

A finished LoRA, put where others find it.
"""

import shutil
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rdt.policy import Policy
from rdt.report.tables import card_table
from rdt.result import Result
from rdt.weights import failure, hub_reason


def save(policy: Policy, cfg: DictConfig, result: Result, out: Path) -> None:
    """lora/, written under a temporary name: weights, README.md, config.yaml, and the sample grids that it shows."""
    partial, folder = out / "lora.partial", out / "lora"
    shutil.rmtree(partial, ignore_errors=True)
    policy.save_lora(partial)
    OmegaConf.save(cfg, partial / "config.yaml", resolve=True)
    for name in ("base", "tuned"):
        shutil.copyfile(out / "samples" / f"{name}.png", partial / f"{name}.png")
    prompts = (out / "samples" / "prompts.txt").read_text(encoding="utf-8").splitlines()
    (partial / "README.md").write_text(card(cfg, result, prompts), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


def card(cfg: DictConfig, result: Result, prompts: list[str]) -> str:
    """The model card: how to load it, what it gained and what that cost, by what run."""
    source, repo = cfg.model.policy.source, _repository(cfg.model.policy.source)
    base = f"base_model: {repo}\n" if repo else ""
    return f"""---
library_name: diffusers
pipeline_tag: text-to-image
{base}tags: [lora, text-to-image, rdt, {cfg.method.name}, {cfg.reward.name}]
---
# {cfg.method.name} on {cfg.reward.name}, {cfg.model.name}, seed {cfg.seed}

A LoRA of rank {cfg.model.lora.rank}, alpha {cfg.model.lora.alpha}, for `{source}`, trained {result.iterations}
iterations on {result.compute["images"]} images with rdt; all its settings are in `config.yaml`.

    pipe = diffusers.DiffusionPipeline.from_pretrained("{repo or source}")
    pipe.load_lora_weights("{cfg.push_to_hub or "this/folder"}")

`pytorch_lora_weights_kohya.safetensors` is the same in kohya's names, for ComfyUI and its kin.

## Its point on the front

{card_table(result)}
Means over {result.base.n_prompts} held-out prompts of {result.base.n_per_prompt} images each, base and
tuned from the same noise; in brackets the 95 % interval of the mean.

## Samples

At equal noise, base and tuned; a row a prompt: {", ".join(f'"{prompt}"' for prompt in prompts)}.

![base](base.png) ![tuned](tuned.png)
"""


def _repository(source: str) -> str | None:
    """The hub's name of a source that is there."""
    scheme, _, name = source.partition(":")
    return name.partition("@")[0] if scheme == "hub" else None


def push(folder: Path, repo: str) -> str:
    """Put a folder's files into a repository of the hub, made where it is not there; the address.

    ConnectionError in one line where that fails: the files stay where they are.
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
        cure = f"all is in {folder}; once that is mended run: hf upload {repo} {folder}"
        raise ConnectionError(f"push_to_hub={repo}: {hub_reason(error)}; {cure}") from None
