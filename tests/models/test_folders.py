"""A model's folder is loaded from whatever weight files it has, and what it has not is named in one line."""

import hashlib
import http.server
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor

from rdt import weights
from rdt.checkpoint import weight_files
from rdt.models import pipeline, sd3, sd15, sdxl
from rdt.policy import Adapter, Policy, Setup
from worlds import model_checkpoints, tiny_policy

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 3438167540\n"
UNET, ENCODER = "unet/diffusion_pytorch_model", "text_encoder/model"
FILES = (UNET, "vae/diffusion_pytorch_model", ENCODER)
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in model_checkpoints.MAKERS.items()}


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["sd15"], tmp_path / "model"))


def built(folder: Path, resolution: int | None = 16) -> Policy:
    setup = Setup(resolution=resolution)
    return sd15.build(
        source=str(folder), consistency=None, adapter=Adapter(2, 2, ["to_q"]), checkpointing=False, setup=setup
    )


def output(policy: Policy) -> Tensor:
    x = tiny_policy.normal(2, *policy.latent_shape)
    return policy.decode(policy.base(x, torch.tensor(500), policy.encode(["a circle", "two rings"])))


def refusal(build: Callable[[], Any]) -> str:
    """Return the error line of a build."""
    with pytest.raises(ValueError, match=r"^checkpoint ") as caught:
        build()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(file: Path, **settings: Any) -> None:
    """Write settings into a JSON file; one that is ... is removed."""
    config = json.loads(file.read_text()) | settings
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def to_variant(folder: Path) -> None:
    for stem in FILES:
        (folder / f"{stem}.safetensors").rename(folder / f"{stem}.fp16.safetensors")


def to_bin(folder: Path) -> None:
    for stem in FILES:
        file = folder / f"{stem}.safetensors"
        name = file.name.replace("model.safetensors", "pytorch_model.bin" if stem == ENCODER else "model.bin")
        torch.save(load_file(file), file.with_name(name))
        file.unlink()


def to_bin_variant(folder: Path) -> None:
    to_bin(folder)
    for file in folder.glob("*/*.bin"):
        file.rename(file.with_suffix(".fp16.bin"))


@pytest.mark.parametrize("change", [to_variant, to_bin, to_bin_variant])
def test_variants_and_pickles_of_weights_alone_load_as_safetensors_do(change: Change, copy: Path) -> None:
    expected = output(built(copy))
    change(copy)
    weights.check_source(str(copy))
    assert output(built(copy)).equal(expected)


def test_plain_weights_come_before_variants_and_safetensors_before_pickles() -> None:
    names = [
        "model.fp16.safetensors",
        "pytorch_model.bin",
        "model.safetensors",
        "config.json",
        "model.bf16.safetensors",
    ]
    assert weight_files(names).names == ("model.safetensors",)
    assert weight_files(names[:2]).names == ("pytorch_model.bin",)
    assert weight_files([names[4], names[0]]).variant == "fp16"
    shards = [f"diffusion_pytorch_model{end}-0000{k}-of-00002.safetensors" for end in ("", ".fp16") for k in (2, 1)]
    assert weight_files(shards).names == tuple(sorted(shards[:2]))
    assert weight_files(["model.non_ema.safetensors", "model.onnx"]) is None


@pytest.mark.parametrize("name", ["flax_model.msgpack", "diffusion_pytorch_model.non_ema.safetensors"])
def test_a_component_without_weights_that_can_be_loaded_says_what_it_has(name: str, copy: Path) -> None:
    (copy / f"{UNET}.safetensors").rename(copy / "unet" / name)
    assert f"unet has no weights in safetensors or .bin, plain or fp32, fp16, bf16: it has {name}" in refusal(
        lambda: built(copy)
    )


@pytest.mark.parametrize("stem", FILES)
def test_a_weight_that_a_file_does_not_have_is_not_filled_with_random_numbers(stem: str, copy: Path) -> None:
    tensors = load_file(copy / f"{stem}.safetensors")
    gone = sorted(tensors)[0]
    del tensors[gone]
    save_file(tensors, copy / f"{stem}.safetensors", {"format": "pt"})
    assert f"{stem.partition('/')[0]} has no weight " in (line := refusal(lambda: built(copy)))
    assert gone.removeprefix("text_model.") in line and "(1 missing)" in line


def test_only_files_that_are_loaded_are_checked(copy: Path) -> None:
    (copy / "v1-5-pruned.safetensors").write_text(POINTER)
    (copy / "unet" / "diffusion_pytorch_model.non_ema.safetensors").write_text(POINTER)
    (copy / "safety_checker").mkdir()
    (copy / "safety_checker" / "model.safetensors").write_text("broken")
    edit(copy / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    weights.check_source(str(copy))
    assert built(copy).latent_shape == (4, 8, 8)


@pytest.mark.parametrize("name", [f"{UNET}.safetensors", f"{ENCODER}.safetensors", "tokenizer/tokenizer.json"])
def test_a_git_lfs_pointer_is_called_by_its_name(name: str, copy: Path) -> None:
    (copy / name).write_text(POINTER)
    assert f"{name} is a Git LFS pointer" in refusal(lambda: weights.check_source(str(copy)))
    if name.endswith(".safetensors"):
        assert f"{name} is a Git LFS pointer" in refusal(lambda: built(copy))
        assert "is a Git LFS pointer" in refusal(lambda: weights.load_tensors(copy / name))


def test_components_that_a_run_leaves_out_are_not_checked(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["sd3"], tmp_path / "model"))
    (folder / "text_encoder_3" / "model.safetensors").write_text(POINTER)
    assert "text_encoder_3" in refusal(lambda: weights.check_source(str(folder)))
    weights.check_source(str(folder), left_out=("text_encoder_3",))
    assert build_sd3(folder, t5=False).latent_shape == (16, 8, 8)


def build_sd3(folder: Path, **changes: Any) -> Policy:
    setup, adapter = Setup(resolution=16), Adapter(2, 2, ["to_q"])
    return sd3.build(
        source=str(folder), sampler="sde", tokens=24, adapter=adapter, checkpointing=False, setup=setup, **changes
    )


@pytest.mark.parametrize("entry", [[None, None], ...])
def test_a_folder_without_t5_says_that_t5_false_leaves_it_out(
    entry: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["sd3"], tmp_path / "model"))
    for name in sd3.T5:
        shutil.rmtree(folder / name)
    edit(folder / "model_index.json", text_encoder_3=entry, tokenizer_3=entry)
    line = refusal(lambda: build_sd3(folder))
    assert "has no text_encoder_3" in line and "set model.policy.t5=false" in line
    weights.check_source(str(folder))
    build_sd3(folder, t5=False).encode(["a circle"])


def test_a_missing_or_other_text_encoder_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["sdxl"], tmp_path / "model"))

    def build() -> Policy:
        adapter, setup = Adapter(2, 2, ["to_q"]), Setup(resolution=16)
        return sdxl.build(source=str(folder), consistency=None, adapter=adapter, checkpointing=False, setup=setup)

    edit(folder / "model_index.json", text_encoder_2=["transformers", "CLIPTextModel"])
    assert "text_encoder_2 is a CLIPTextModel; expected a CLIPTextModelWithProjection" in refusal(build)
    edit(folder / "model_index.json", text_encoder=[None, None])
    assert "has no text_encoder, which a StableDiffusionXLPipeline reads prompts with" in refusal(build)


def test_text_encoders_of_another_width_are_named_with_both(copy: Path) -> None:
    model_checkpoints.clip(model_checkpoints.CLIPTextModel, 24).save_pretrained(copy / "text_encoder")
    line = refusal(lambda: built(copy).encode(["a circle"]))
    assert "tokens=24" in line and "tokens=16" in line


def overflow(copy: Path) -> None:
    edit(copy / "tokenizer" / "tokenizer_config.json", model_max_length=...)


def without_class(copy: Path) -> None:
    """Write the tokenizer as older versions did, with a config that names neither class nor length."""
    vocabulary = model_checkpoints.words().get_vocab()
    (copy / "tokenizer" / "tokenizer.json").unlink()
    (copy / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (copy / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    edit(copy / "tokenizer" / "tokenizer_config.json", model_max_length=..., tokenizer_class=...)


@pytest.mark.parametrize("change", [overflow, without_class])
def test_the_encoders_position_table_limits_a_tokenizer_without_a_limit(change: Change, copy: Path) -> None:
    expected = built(copy).encode(["a circle", "q " * 100]).embeds
    change(copy)
    policy = built(copy)
    assert policy.encode(["a circle", "q " * 100]).embeds.equal(expected)
    assert policy.overlong(["a circle", "q " * 100, "q " * 75, "q " * 76]) == 2


def test_a_tokenizer_without_a_class_is_read_as_the_stock_pipeline_reads_it(copy: Path) -> None:
    without_class(copy)
    theirs = StableDiffusionPipeline.from_pretrained(copy, local_files_only=True).tokenizer
    limit = {"padding": "max_length", "max_length": 77, "truncation": True, "return_tensors": "pt"}
    theirs, encoder = theirs(["a circle"], **limit).input_ids, built(copy)._parts.frozen[0]
    assert built(copy).encode(["a circle"]).embeds.equal(encoder(theirs).last_hidden_state)


def test_latents_that_are_not_square_need_a_resolution(copy: Path) -> None:
    edit(copy / "unet" / "config.json", sample_size=[24, 16])
    assert built(copy).latent_shape == (4, 8, 8)
    assert "sample_size=[24, 16] is not a square; set model.policy.setup.resolution" in refusal(
        lambda: built(copy, resolution=None)
    )
    edit(copy / "unet" / "config.json", sample_size=[8, 8])
    assert built(copy, resolution=None).latent_shape == (4, 8, 8)


def test_a_broken_config_is_named(copy: Path) -> None:
    for name, content in (
        ("scheduler/scheduler_config.json", "{"),
        ("vae/config.json", "[1]"),
        ("model_index.json", ""),
    ):
        whole = (copy / name).read_text()
        (copy / name).write_text(content)
        assert str(copy / name) in refusal(lambda: built(copy))
        (copy / name).write_text(whole)
    (copy / "scheduler" / "scheduler_config.json").unlink()
    assert "scheduler has no scheduler_config.json" in refusal(lambda: built(copy))


def test_an_image_with_more_patches_than_positions_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder, setup = Path(shutil.copytree(folders["sd3"], tmp_path / "model")), Setup(resolution=64)
    build = {"sampler": "sde", "adapter": Adapter(2, 2, ["to_q"]), "checkpointing": False, "setup": setup}
    assert "pos_embed_max_size=8 is below the 16 patches" in refusal(lambda: sd3.build(source=str(folder), **build))


REPOSITORY = ["model_index.json", "unet/config.json", "vae/diffusion_pytorch_model.safetensors"]


def test_from_the_hub_the_weights_are_chosen_that_the_repository_has() -> None:
    names = [*REPOSITORY, f"{UNET}.bin", f"{UNET}.fp16.bin", "vae/diffusion_pytorch_model.fp16.safetensors"]
    assert pipeline._wanted("hub:a/b", names, ("unet", "vae")) == [f"{UNET}.bin", REPOSITORY[2]]
    variant = [*REPOSITORY, f"{UNET}.fp16.safetensors", f"{UNET}.fp16.bin"]
    assert pipeline._wanted("hub:a/b", variant, ("unet",)) == [f"{UNET}.fp16.safetensors"]
    with pytest.raises(ValueError, match=r"^checkpoint hub:a/b: unet has no weights .*has flax_model.msgpack$"):
        pipeline._wanted("hub:a/b", [*REPOSITORY, "unet/flax_model.msgpack"], ("unet",))


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serve a folder as the hub serves a repository."""

    folder: Path
    fetched: list[str]

    def do_GET(self) -> None:
        names = sorted(file.relative_to(self.folder).as_posix() for file in self.folder.rglob("*") if file.is_file())
        _, _, name = self.path.partition(f"/resolve/{COMMIT}/")
        if name:
            return self._answer((self.folder / name).read_bytes(), name)
        files = [{"rfilename": each} for each in names]
        if "/tree/" in self.path:
            files = [{"type": "file", "path": each, "oid": COMMIT, "size": 1} for each in names]
            return self._answer(json.dumps(files).encode())
        return self._answer(json.dumps({"id": "a/b", "sha": COMMIT, "siblings": files}).encode())

    do_HEAD = do_GET

    def _answer(self, body: bytes, name: str = "") -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if name:
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.fetched.append(name)
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


COMMIT = "0" * 40


@pytest.mark.parametrize("change", [to_bin, to_variant])
def test_a_repository_without_plain_safetensors_is_downloaded_and_loaded(
    change: Change, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = output(built(copy))
    change(copy)
    (copy / "unet" / "flax_model.msgpack").write_text("not needed")
    handler = type("Handler", (Mirror,), {"folder": copy, "fetched": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", here)
    template = f"{here}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    try:
        assert output(built(Path("hub:a/b"))).equal(expected)
    finally:
        server.shutdown()
        server.server_close()
    assert not any(name.endswith(".msgpack") for name in handler.fetched)
