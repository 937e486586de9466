"""A wrong model source is refused in one clear line, within seconds."""

import http.server
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from rdt import weights
from rdt.errors import UsageError
from rdt.models import sd15
from rdt.policy import Adapter, Setup
from rdt.training.abort import explain_out_of_memory
from rdt.training.card import push
from rdt.weights import MissingCheckpoint
from worlds import model_checkpoints

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_checkpoints.sd15(tmp_path_factory.mktemp("sd15"))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def refusal(source: Any, **setup: Any) -> str:
    """Return the error line of building from a source."""
    with pytest.raises((ValueError, OSError)) as caught:
        sd15.build(
            source=str(source),
            consistency=None,
            adapter=Adapter(2, 2, ["to_q"]),
            checkpointing=False,
            setup=Setup(**setup),
        )
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    return str(caught.value)


def test_a_folder_of_another_family_is_refused(tmp_path: Path) -> None:
    line = refusal(model_checkpoints.sdxl(tmp_path / "xl"))
    assert "is a StableDiffusionXLPipeline; expected StableDiffusionPipeline" in line


def test_a_file_or_a_folder_without_a_model_index_is_refused(folder: Path) -> None:
    assert "is a file; a model is a diffusers folder" in refusal(folder / "model_index.json")
    assert "no model_index.json" in refusal(folder / "unet")
    assert "no file /nosuch" in refusal("/nosuch")


def test_an_incomplete_download_is_refused_by_component(copy: Path) -> None:
    whole = (copy / UNET).read_bytes()
    (copy / UNET).write_bytes(whole[: len(whole) // 2])
    assert f"{UNET} is not a readable file of tensors: {len(whole) // 2} bytes of {len(whole)}" in refusal(copy)
    with pytest.raises(ValueError, match=r"unet.* bytes of "):
        weights.check_source(str(copy))
    (copy / UNET).unlink()
    assert "unet has no weights" in refusal(copy) and "repeat" in refusal(copy)
    (copy / UNET).write_bytes(whole)
    shutil.rmtree(copy / "text_encoder")
    assert "text_encoder has no weights" in refusal(copy)


def test_a_resolution_that_gives_no_whole_latents_is_refused(folder: Path) -> None:
    assert "resolution=17 must be a multiple of 2" in refusal(folder, resolution=17)


class Hub(http.server.BaseHTTPRequestHandler):
    """Refuse as the hub does; the repository's name selects how."""

    def do_GET(self) -> None:
        code, status = "", 200
        if "gated" in self.path and self.path.endswith("auth-check"):
            code, status = "GatedRepo", 403
        elif "nosuch" in self.path:
            code, status = "RepoNotFound", 404
        elif "/revision/v9" in self.path:
            code, status = "RevisionNotFound", 404
        elif "whoami" in self.path:
            status = 401
        body = b'{"id": "a/b", "sha": "0", "siblings": []}' if status == 200 else b'{"error": "a page of text"}'
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    from huggingface_hub import constants

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("hub:some/gated", "it is gated: accept its licence"),
        ("hub:nosuch/repo", "no such repository"),
        ("hub:some/repo@v9", "no such revision"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line_at_once(
    hub: Any, source: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)  # before another try
    for function in (weights.check_source, weights.locate):
        with pytest.raises(MissingCheckpoint) as caught:
            function(source)
        message = str(caught.value)
        assert line in message and source in message and "\n" not in message
    assert not pauses


def test_a_failed_push_names_the_folder_with_the_files(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    for endpoint in (constants.ENDPOINT, "http://127.0.0.1:9"):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        with pytest.raises(ConnectionError, match=r"^push_to_hub=me/lora: .*hf upload me/lora") as caught:
            push(tmp_path, "me/lora")
        assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_running_out_of_memory_is_one_line() -> None:
    with (
        pytest.raises(UsageError, match=r"^not enough memory: .*lower micro_batch_size") as caught,
        explain_out_of_memory(),
    ):
        torch.empty(2**50)
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="size of tensor"), explain_out_of_memory():
        torch.ones(2) + torch.ones(3)
