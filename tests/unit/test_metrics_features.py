"""EfficientNet-Lite0 gives ImageNet's answers, folding changes nothing, and extractors are what they say."""

import hashlib

import numpy as np
import pytest
import torch
from matplotlib import cbook
from PIL import Image

from backtrail.errors import UserError
from backtrail.metrics.features import EXTRACTORS, extractor
from backtrail.nets import efficientnet
from backtrail.nets.efficientnet import DIMENSION, ConvNorm, EfficientNetLite0, pretrained


@pytest.fixture(scope="module")
def net():
    return pretrained()


def photograph():
    """Grace Hopper in uniform (matplotlib's sample), the middle 7/8 of the short side, 224x224, prepared."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        picture = Image.open(file).convert("RGB")
    side = int(min(picture.size) * 0.875)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    pixels = np.array(picture.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC))
    return (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() - 127) / 128


def images(n, channels=1, size=16, seed=0):
    return torch.randint(256, (n, channels, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_a_photograph_gets_its_imagenet_classes(net):
    """Academic gown, mortarboard, military uniform: hers is the third. Symmetric padding loses it from the first four."""
    probabilities = net.logits(photograph()).softmax(1)[0]
    assert set(probabilities.topk(3).indices.tolist()) == {400, 667, 652}
    assert probabilities[652].item() == pytest.approx(0.175, abs=0.01)


def test_shape_of_the_published_architecture(net):
    assert sum(p.numel() for p in EfficientNetLite0().parameters()) == 4_652_008  # the published count for Lite0
    assert net(images(2, 3, 32)).shape == (2, DIMENSION)


def test_same_padding_is_tensorflows():
    """Output size ceil(size / stride), and where the total is odd the pixel more lies after the image."""
    unit = ConvNorm(1, 1, 3, stride=2).eval()
    assert unit._same(64) == (0, 1) and unit._same(7) == (1, 1) and ConvNorm(1, 1, 5, stride=2)._same(8) == (1, 2)
    for size in (7, 8, 63, 64):
        assert unit(torch.zeros(1, 1, size, size)).shape[-1] == -(-size // 2)


def test_folding_is_exact_and_costs_float32_no_more_than_rounding(net):
    x = efficientnet.prepare(images(8), 64)
    exact = pretrained().double()
    wanted = exact.pooled(x.double())
    folded = pretrained().double().fold().pooled(x.double())
    assert ((folded - wanted).norm() / wanted.norm()).item() < 1e-12
    rounding = (net.pooled(x) - wanted).norm() / wanted.norm()
    fast = (pretrained().fold().pooled(x) - wanted).norm() / wanted.norm()
    assert rounding.item() < 1e-5 and fast.item() < 2 * rounding.item()


def test_preparation_is_resize_then_the_weights_normalisation():
    grey = efficientnet.prepare(torch.full((1, 1, 16, 16), 255, dtype=torch.uint8), 64)
    assert grey.shape == (1, 3, 64, 64) and torch.all(grey == 1) and torch.all(efficientnet.prepare(grey.byte() * 127, 64) == 0)
    large = images(1, 3, 256)
    expected = np.stack(
        [np.asarray(Image.fromarray(c.numpy().astype(np.float32)).resize((64, 64), Image.Resampling.BILINEAR)) for c in large[0]]
    )
    assert np.abs(efficientnet.prepare(large, 64)[0].numpy() * 128 + 127 - expected).max() < 1e-3  # PIL's filter is antialiased


def test_features_do_not_depend_on_neighbours_in_the_batch():
    e = extractor("efficientnet-lite0")
    x = images(10)
    whole, pieces = e.features(x), e.features(x, batch_size=3)
    assert whole.dtype == torch.float32 and whole.shape == (10, e.dimension)
    assert ((whole - pieces).norm() / whole.norm()).item() < 1e-5
    assert torch.equal(whole, e.features(x))


def test_grey_and_equal_colours_are_one_image():
    e = extractor("efficientnet-lite0")
    x = images(3)
    assert torch.equal(e.features(x), e.features(x.expand(-1, 3, -1, -1).contiguous()))


def test_an_extractor_says_what_it_is():
    e = extractor("efficientnet-lite0")
    assert (e.name, e.key, e.dimension, e.dtype) == ("efficientnet-lite0", "efficientnet_lite0", 1280, "float32")
    assert e.digest == efficientnet.SHA256 and "64x64" in e.resize
    assert set(EXTRACTORS) == {"classifier", "efficientnet-lite0", "inception", "inception-clean"}


def test_other_weights_are_refused(monkeypatch):
    monkeypatch.setattr(efficientnet, "SHA256", hashlib.sha256(b"other").hexdigest())
    with pytest.raises(UserError, match=r"should have sha256 d9298a10.*; found 579344248a93"):
        pretrained()
    monkeypatch.setattr(efficientnet, "PACKAGE", "no-such-package-here")
    with pytest.raises(UserError, match="expected the package no-such-package-here"):
        pretrained()


def test_images_of_another_kind_are_refused():
    e = extractor("efficientnet-lite0")
    for wrong in (images(2).float(), images(2, 2), images(2)[0], images(2)[:0]):
        with pytest.raises(UserError, match="takes uint8 images"):
            e.features(wrong)
    with pytest.raises(UserError, match="unknown feature extractor 'vgg'; known: classifier, efficientnet-lite0, inception"):
        extractor("vgg")
    with pytest.raises(UserError, match="`classifier` needs the file"):
        extractor("classifier")
