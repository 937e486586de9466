"""No loader runs code of the files that it reads: a pickle, a module beside them, or a class that they name."""

import pytest
from diffusers import AutoencoderKL
from transformers import BertTokenizer, CLIPTextModel, CLIPTokenizer

from rdt import prompts, result
from rdt.cond import Cond, Embeddings
from rdt.models import pipeline, sd15
from rdt.models.lora import read_lora
from rdt.policy import PLAIN, Adapter
from rdt.rewards.heads import load_tokenizer
from rdt.study.votes import read_key, read_votes
from rdt.training.launch import launch
from rdt.weights import check_source, load_tensors, pretrained
from worlds import payloads
from worlds.model_checkpoints import MAKERS
from worlds.smallest_run import minimal

PICKLES = {"a pickle": payloads.raw_pickle, "torch's archive": payloads.torch_file}


def load_model(folder):
    """Read every component of a model's folder as a run does."""
    check_source(str(folder))
    policy = sd15.parts(folder, PLAIN)
    policy.overlong(["a circle"])
    policy.encode(["a circle"])


def read_embedding(file):
    """Read a prompt's condition where a stranger's file lies in its place."""
    stored = Embeddings(file.parent, lambda: lambda prompts: Cond(load_tensors(file)["weight"]))
    stored._file("a circle").write_bytes(file.read_bytes())
    stored(["a circle"])


VAE = AutoencoderKL(block_out_channels=(32,), latent_channels=4)
FILES = {
    "tensors": ("x.bin", load_tensors),
    "tensors named safetensors": ("x.safetensors", load_tensors),
    "a safetensors file before a run": ("x.safetensors", lambda file: check_source(str(file))),
    "a LoRA": ("x.safetensors", lambda file: read_lora(file, Adapter(2, 2, ("to_q",)))),
    "a LoRA of torch": ("x.bin", lambda file: read_lora(file, Adapter(2, 2, ("to_q",)))),
    "a reward's backbone": ("m/pytorch_model.bin", lambda file: pretrained(CLIPTextModel, str(file.parent), None)),
    "embeddings": ("cached.safetensors", read_embedding),
    "prompts as text": ("x.txt", lambda file: prompts.from_file(path=str(file))),
    "prompts as JSON": ("x.json", lambda file: prompts.from_file(path=str(file))),
    "prompts as a table": ("x.parquet", lambda file: prompts.from_file(path=str(file))),
    "a result": ("result.json", lambda file: result.read(file.parent)),
    "votes": ("x.json", lambda file: read_votes([file], {})),
    "a study's key": ("key.json", read_key),
    "a UNet": ("m/unet/diffusion_pytorch_model.bin", lambda file: pipeline.unet(file.parents[1], PLAIN, VAE, None)),
    "a text encoder": ("m/text_encoder/pytorch_model.bin", lambda file: sd15.parts(file.parents[1], PLAIN)),
    "a tokenizer": ("m/tokenizer.json", lambda file: load_tokenizer(CLIPTokenizer, str(file.parent))),
    "a tokenizer's model": ("m/vocab.txt", lambda file: load_tokenizer(BertTokenizer, str(file.parent))),
}


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("name", FILES)
def test_no_loader_runs_a_pickle(tmp_path, kind, name):
    place, load = FILES[name]
    file, marker = tmp_path / place, tmp_path / "marker"
    PICKLES[kind](file, marker)
    if file.parent != tmp_path:
        config = CLIPTextModel.config_class(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
        (file.parent / "config.json").write_text(config.to_json_string())
    with pytest.raises((ValueError, OSError)):
        load(file)
    assert not marker.exists()


@pytest.mark.parametrize("kind", PICKLES)
def test_no_checkpoint_runs_a_pickle(tmp_path, kind):
    PICKLES[kind](tmp_path / "000001" / "run.ckpt", tmp_path / "marker")
    cfg = minimal(tmp_path / "out", "logger=csv", f"resume={tmp_path / '000001'}")
    with pytest.raises(Exception):  # noqa: B017
        launch(cfg)
    assert not (tmp_path / "marker").exists()


AUTO = {
    "AutoConfig": "custom.Custom", "AutoModel": "custom.Custom", "AutoTokenizer": ["custom.Custom", None],
    "CLIPTextModel": "custom.Custom", "AutoProcessor": "custom.Custom",
}  # fmt: skip


@pytest.mark.parametrize("part", ["", "unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_no_module_in_a_models_folder_is_imported(tmp_path, part, monkeypatch):
    """The folder names its code in every way that diffusers and transformers know."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it offers to run the code"))
    folder, marker = MAKERS["sd15"](tmp_path / "model"), tmp_path / "marker"
    for name in ("custom.py", "pipeline.py", "modeling.py", "__init__.py", "hubconf.py"):
        payloads.module(folder / part / name, marker, "Custom", "UNet2DConditionModel")
    for file in (folder / part).glob("*.json"):
        if file.name in ("config.json", "tokenizer_config.json", "scheduler_config.json"):
            payloads.added(file, auto_map=AUTO, _auto_class="Custom", custom_pipeline="pipeline")
    if part:
        payloads.added(folder / "model_index.json", **{part: ["custom", "Custom"], "custom_pipeline": "pipeline.py"})
    else:
        payloads.added(folder / "model_index.json", _class_name=["pipeline", "Custom"], custom_pipeline="pipeline.py")
    try:
        load_model(folder)
    except ValueError as error:
        assert str(folder) in str(error) and "\n" not in str(error)
    assert not marker.exists()


@pytest.mark.parametrize("kind", [CLIPTokenizer, BertTokenizer])
def test_a_tokenizers_own_class_is_not_imported(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it offers to run the code"))
    folder = MAKERS["sd15"](tmp_path / "model") / "tokenizer"
    payloads.module(folder / "custom.py", tmp_path / "marker", "Custom")
    payloads.added(folder / "tokenizer_config.json", auto_map=AUTO, tokenizer_class="Custom")
    try:
        load_tokenizer(kind, str(folder))
    except ValueError as error:
        assert "\n" not in str(error)
    assert not (tmp_path / "marker").exists()
