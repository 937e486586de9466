"""FID's Inception has the published layout and TensorFlow's resizing, and equals torch-fidelity's if installed."""

import pytest
import torch
import torch.nn.functional as F

from rdt.embedders import inception
from worlds import feature_checkpoints


@pytest.fixture(scope="module")
def published():
    """Return random weights under the file's names."""
    return feature_checkpoints.inception_tensors()


def test_features_are_finite_and_of_the_last_blocks_width(published):
    pictures = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(1)) * torch.tensor([1, 0.2]).view(
        2, 1, 1, 1
    )
    features = inception.Inception(published)(pictures)
    assert features.shape == (2, 6 * feature_checkpoints.INCEPTION_WIDTH) and features.isfinite().all()
    assert (features[0] - features[1]).abs().max() > 0.01


def test_batch_norm_is_folded_in(published):
    name = "Conv2d_1a_3x3"
    x = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(2))
    plain = F.conv2d(x, published[f"{name}.conv.weight"], stride=2)
    mean, variance, gain, shift = (
        published[f"{name}.bn.{k}"] for k in ("running_mean", "running_var", "weight", "bias")
    )
    expected = F.batch_norm(plain, mean, variance, gain, shift, eps=0.001)
    assert torch.allclose(inception.Inception(published).convolutions[name](x), expected, atol=1e-6)


def test_every_convolution_of_the_file_is_needed(published):
    assert len(list(inception.convolutions())) == 94
    for key in ("Mixed_6e.branch7x7dbl_5.conv.weight", "Mixed_7c.branch3x3_2b.bn.running_var"):
        with pytest.raises(ValueError, match=r"lacks the key 'Mixed.*it is not FID's Inception"):
            inception.Inception({name: value for name, value in published.items() if name != key})


@pytest.mark.parametrize("shape", [(40, 512), (299, 299)])
def test_resizing_equals_tensorflows_formula(shape):
    x = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    resized = inception.resized(x)
    for i, j in [(0, 0), (7, 298), (298, 298), (150, 33)]:
        y, z = i * shape[0] / 299, j * shape[1] / 299
        y0, z0 = int(y), int(z)
        y1, z1 = min(y0 + 1, shape[0] - 1), min(z0 + 1, shape[1] - 1)
        top = x[0, 0, y0, z0] * (1 - z + z0) + x[0, 0, y0, z1] * (z - z0)
        bottom = x[0, 0, y1, z0] * (1 - z + z0) + x[0, 0, y1, z1] * (z - z0)
        assert float(resized[0, 0, i, j]) == pytest.approx(float(top * (1 - y + y0) + bottom * (y - y0)), abs=1e-9)


def test_features_equal_torch_fidelitys(monkeypatch):
    """Both are run at full size, with torch-fidelity's random weights."""
    theirs = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", exc_type=ImportError)
    kind = theirs.FeatureExtractorInceptionV3
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: None)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "load_state_dict", lambda self, state: None)
        extractor = kind("inception", ["2048"])
    images = (torch.rand(2, 3, 96, 80, generator=torch.Generator().manual_seed(4)) * 255).round() / 255
    expected = extractor((images * 255).round().byte())[0]
    assert torch.allclose(inception.Inception(extractor.state_dict())(images), expected, atol=1e-5)
