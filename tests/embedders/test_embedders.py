"""Embedders load published layouts and agree with transformers' own processors and a second LPIPS."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import BitImageProcessor, CLIPModel, Dinov2Model

from rdt.diversity import mean_pairwise_squared_distance
from rdt.embedders import lpips, vision
from rdt.embedders.dreamsim import dreamsim
from rdt.embedders.vision import Preprocessing, clip, dinov2
from rdt.weights import MissingCheckpoint
from worlds import feature_checkpoints

MAKERS = {"clip": feature_checkpoints.clip_folder, "dinov2": feature_checkpoints.dinov2_folder}
LOADERS = {"clip": clip, "dinov2": dinov2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    torch.manual_seed(0)  # otherwise the weights would depend on the order of tests
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def lpips_files(tmp_path_factory):
    return feature_checkpoints.lpips_files(tmp_path_factory.mktemp("lpips"))


def images(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def expected(name, folder, pictures):
    """Return the pixels of transformers' own PIL processor and the features of its model."""
    config = json.loads((folder / "preprocessor_config.json").read_text())
    size = config["size"] if isinstance(config["size"], dict) else {"shortest_edge": config["size"]}
    sides = dict.fromkeys(("height", "width"), config["size"])
    crop = config["crop_size"] if isinstance(config["crop_size"], dict) else sides
    processor = BitImageProcessor(**(config | {"size": size, "crop_size": crop}))
    pixels = processor(
        [Image.fromarray(np.asarray((x * 255).round().byte().permute(1, 2, 0))) for x in pictures], return_tensors="pt"
    ).pixel_values
    model = {"clip": CLIPModel, "dinov2": Dinov2Model}[name].from_pretrained(folder).eval()
    with torch.no_grad():
        if name == "clip":
            return pixels, model.get_image_features(pixel_values=pixels).pooler_output
        return pixels, model(pixel_values=pixels).pooler_output


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("shape", [(20, 20), (37, 52), (64, 31)])
def test_features_equal_those_of_transformers(folders, name, shape):
    smooth = F.interpolate(images(3, 3, 6, 6), shape, mode="bilinear")
    pictures = (smooth * 255).round() / 255
    embedder = LOADERS[name](checkpoint=str(folders[name]))
    pixels, theirs = expected(name, folders[name], pictures)
    ours = embedder.preprocessing(pictures)
    assert ours.shape == pixels.shape and (ours - pixels).abs().max() < 1.1 / 255 / 0.22  # PIL rounds to bytes
    assert torch.allclose(embedder(pictures), theirs, atol=0.05) and theirs.std() > 0.2


@pytest.mark.parametrize("name", MAKERS)
def test_embedders_are_frozen_shared_and_independent_of_batches(folders, name, monkeypatch):
    embedder = LOADERS[name](checkpoint=str(folders[name]))
    assert embedder is LOADERS[name](checkpoint=str(folders[name]))
    assert not embedder.train().training and not any(p.requires_grad for p in embedder.parameters())
    pictures = images(7, 3, 24, 24).requires_grad_()
    whole = embedder(pictures)
    assert not whole.requires_grad and whole.dtype == torch.float32
    monkeypatch.setattr(vision, "BATCH", 3)
    assert torch.allclose(embedder(pictures), whole, atol=1e-6)
    assert torch.allclose(embedder(pictures.flip(0)).flip(0), whole, atol=1e-6)
    with pytest.raises(ValueError, match="images span"):
        embedder(2 * pictures - 1)


@pytest.mark.parametrize("name", MAKERS)
def test_a_wrong_folder_is_refused_in_one_line(folders, name, tmp_path):
    other = next(folder for key, folder in folders.items() if key != name)
    with pytest.raises(ValueError, match=r"CLIPModel|Dinov2Model") as error:
        LOADERS[name](checkpoint=str(other))
    assert "\n" not in str(error.value)
    with pytest.raises(MissingCheckpoint, match="no file"):
        LOADERS[name](checkpoint=str(tmp_path / "absent"))
    with pytest.raises(MissingCheckpoint, match="preprocessor_config"):
        LOADERS[name](checkpoint=str(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text('{"size": 3}')
    with pytest.raises(ValueError, match="does not define how images are preprocessed: KeyError"):
        LOADERS[name](checkpoint=str(tmp_path))


def test_a_crop_that_does_not_fit_clip_is_refused(folders, tmp_path):
    for file in folders["clip"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "preprocessor_config.json").read_text()) | {"crop_size": 24}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="crop_size=24, the model's image_size is 20"):
        clip(checkpoint=str(tmp_path))


def reference_lpips(network, files, x, y):
    """Return LPIPS from its definition, through a plain stack of torch's layers."""
    trunk, heads = torch.load(files["checkpoint"]), torch.load(files["heads"])
    layout, total = lpips.NETWORKS[network], 0.0
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    both = [((2 * z - 1) - shift.view(3, 1, 1)) / scale.view(3, 1, 1) for z in (x, y)]
    for place in range(max(layout.convolutions) + 1):
        if f"features.{place}.weight" not in trunk:  # ReLU, or a pool if the published stack has one here
            pools = {"alex": (2, 5), "vgg": (4, 9, 16, 23)}[network]
            both = [nn.MaxPool2d({"alex": 3, "vgg": 2}[network], 2)(z) for z in both] if place in pools else both
            continue
        options = {0: dict(stride=4, padding=2), 3: dict(padding=2)}.get(place) if network == "alex" else None
        weights = trunk[f"features.{place}.weight"], trunk[f"features.{place}.bias"]
        both = [F.conv2d(z, *weights, **(options or dict(padding=1))).relu() for z in both]
        if place in layout.tapped:
            f, g = (F.normalize(z, dim=1) for z in both)
            head = heads[f"lin{layout.tapped.index(place)}.model.1.weight"]
            total = total + ((f - g).square() * head).sum(1).mean((1, 2))
    return total


@pytest.mark.parametrize("network", lpips.NETWORKS)
def test_squared_distances_equal_lpips(lpips_files, network):
    embedder = lpips.lpips(network=network, **lpips_files[network])
    pictures = images(4, 3, 70, 66)
    embedded = embedder(pictures)
    pairs = [(i, j) for i in range(4) for j in range(i)]
    distances = torch.stack([(embedded[i] - embedded[j]).square().sum() for i, j in pairs])
    theirs = torch.cat([reference_lpips(network, lpips_files[network], pictures[i, None], pictures[j, None])
                        for i, j in pairs])  # fmt: skip
    assert torch.allclose(distances, theirs, rtol=1e-4) and theirs.min() > 0.01
    assert float(mean_pairwise_squared_distance(embedded)) == pytest.approx(theirs.mean().item(), rel=1e-4)


@pytest.mark.parametrize("network", lpips.NETWORKS)
def test_lpips_equals_the_package_lpips(lpips_files, network, monkeypatch):
    """The package's trunk and head classes are used, which need torchvision only to fetch weights."""
    package = pytest.importorskip("lpips")
    embedder = lpips.lpips(network=network, **lpips_files[network])
    pictures = images(2, 3, 70, 66)
    theirs = package.LPIPS(net=network, pretrained=False, pnet_rand=True, verbose=False).eval()
    trunk, heads = (torch.load(lpips_files[network][key]) for key in ("checkpoint", "heads"))
    layers = {
        f"{n}.{kind}": layer for n in range(1, 6) for kind, layer in getattr(theirs.net, f"slice{n}").named_children()
    }
    for key, layer in layers.items():
        if isinstance(layer, nn.Conv2d):
            place = key.partition(".")[2]
            layer.weight, layer.bias = (nn.Parameter(trunk[f"features.{place}.{k}"]) for k in ("weight", "bias"))
    for n in range(5):
        getattr(theirs, f"lin{n}").model[1].weight = nn.Parameter(heads[f"lin{n}.model.1.weight"])
    with torch.no_grad():
        distance = theirs(pictures[:1], pictures[1:], normalize=True).item()
    ours = (embedder(pictures)[0] - embedder(pictures)[1]).square().sum().item()
    assert ours == pytest.approx(distance, rel=1e-4)


def test_full_size_alexnet_and_vgg_have_the_published_channels():
    """The heads that LPIPS 0.1 publishes have these widths."""
    for network, widths in {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}.items():
        spec = importlib.util.find_spec("torchmetrics.functional.image.lpips_models")
        for folder in [] if spec is None else spec.submodule_search_locations:
            heads = torch.load(f"{folder}/{network}.pth", weights_only=True, map_location="cpu")
            assert [heads[f"lin{i}.model.1.weight"].shape for i in range(5)] == [(1, w, 1, 1) for w in widths]
            assert all((weight >= 0).all() for weight in heads.values())


def test_lpips_refuses_files_that_do_not_fit(lpips_files, tmp_path):
    files = lpips_files["alex"]
    with pytest.raises(ValueError, match="network='resnet' is not one of alex, vgg"):
        lpips.lpips(network="resnet", **files)
    with pytest.raises(ValueError, match=r"lacks the key 'features\.2\.weight'"):
        lpips.lpips(network="vgg", **files)
    with pytest.raises(ValueError, match=r"heads do not fit the network: 3 weights for 4 channels of features\.0"):
        lpips.lpips(network="alex", **files | {"heads": lpips_files["vgg"]["heads"]})
    heads = torch.load(files["heads"]) | {"lin1.model.1.weight": -torch.ones(1, 6, 1, 1)}
    save_file(heads, tmp_path / "heads.safetensors")
    with pytest.raises(ValueError, match="head 1 has the negative weight -1"):
        lpips.lpips(network="alex", **files | {"heads": str(tmp_path / "heads.safetensors")})
    with pytest.raises(ValueError, match="it is another file"):
        lpips.lpips(network="alex", **files | {"sha256": "0" * 64})


def test_lpips_can_squeeze_images_first(lpips_files):
    squeezed = lpips.lpips(network="alex", **lpips_files["alex"] | {"size": 70})
    assert squeezed(images(2, 3, 96, 80)).shape == squeezed(images(2, 3, 70, 70)).shape


@pytest.mark.skipif(importlib.util.find_spec("dreamsim") is not None, reason="the package is installed")
def test_dreamsim_names_the_extra_it_needs(tmp_path):
    with pytest.raises(ValueError, match=r"pip install .* '\.\[dreamsim\]'"):
        dreamsim(kind="ensemble", folder=str(tmp_path))


class Packaged(torch.nn.Module):
    """Stand in for DreamSim's model: its extractors project on the device they were loaded to."""

    def __init__(self):
        super().__init__()
        self.extractor_list = torch.nn.ModuleList([torch.nn.Linear(3, 5), torch.nn.Linear(3, 4)])
        for extractor in self.extractor_list:
            extractor.device = "elsewhere"

    def embed(self, images):
        assert images.shape[-2:] == (224, 224) and all(e.device == images.device for e in self.extractor_list)
        return torch.cat([extractor(images.mean((2, 3))) for extractor in self.extractor_list], dim=-1)


@pytest.fixture
def packaged(monkeypatch):
    """Return a function that puts a loader in place of the package's."""

    def put(load):
        monkeypatch.setitem(sys.modules, "dreamsim", SimpleNamespace(dreamsim=load))
        dreamsim.cache_clear()

    yield put
    dreamsim.cache_clear()


def test_dreamsim_embeds_on_its_own_device_whatever_its_batch(packaged, tmp_path):
    given = {}
    packaged(lambda **options: (given.update(options) or Packaged(), None))
    embedder, images = dreamsim(kind="ensemble", folder=str(tmp_path / "a" / "b")), torch.rand(3, 3, 40, 60)
    assert given == {
        "pretrained": True,
        "device": "cpu",
        "cache_dir": str(tmp_path / "a/b"),
        "dreamsim_type": "ensemble",
    }
    assert (tmp_path / "a" / "b").is_dir() and not any(weight.requires_grad for weight in embedder.parameters())
    torch.testing.assert_close(embedder(images), torch.cat([embedder(image[None]) for image in images]))


def test_dreamsim_without_a_network_fails_in_one_line(packaged, tmp_path):
    def load(**_):
        raise OSError("no route")

    packaged(load)
    with pytest.raises(ValueError, match=f"could not be fetched to {tmp_path} .no route."):
        dreamsim(kind="ensemble", folder=str(tmp_path))


def test_preprocessing_reads_both_published_forms(folders):
    assert Preprocessing.read(folders["clip"]).crop == feature_checkpoints.CLIP_SIDE
    read = Preprocessing.read(folders["dinov2"])
    assert (read.resize, read.crop) == (feature_checkpoints.DINO_RESIZE, feature_checkpoints.DINO_SIDE)
