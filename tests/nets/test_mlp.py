"""Perceptrons that are differentiated once."""

import pytest
import torch

from precocial.nets.mlp import orthogonal_layers, perceptron, perceptron_once


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sizes", [(3, 2), (3, 4, 2), (4, 5, 6, 1)])
def test_gradients_are_those_of_finite_differences(sizes):
    params = {
        k: p.double().unsqueeze(0).requires_grad_()
        for k, p in orthogonal_layers(sizes, 1.0, seeded()).items()
    }
    x = torch.randn(1, 7, sizes[0], generator=seeded(1)).double().requires_grad_()

    def values(x, *flat):
        return perceptron_once(dict(zip(params, flat, strict=True)), x, torch.relu)

    assert torch.autograd.gradcheck(values, (x, *params.values()))


@pytest.mark.parametrize("wanted", ["x", "weight_0", "weight_1", "bias_1"])
@pytest.mark.parametrize("rows", [0, 5, 700])
def test_each_gradient_alone_is_the_one_of_the_layers(wanted, rows):
    """A critic that stands still passes a gradient on to actions; an encoder's input has none."""
    params = {
        k: p.unsqueeze(0) for k, p in orthogonal_layers((5, 300, 30, 2), 1.0, seeded()).items()
    }
    x = torch.randn(1, rows, 5, generator=seeded(1))
    leaf = (x if wanted == "x" else params[wanted]).requires_grad_()
    plain, once = (
        torch.autograd.grad(f(params, x, torch.relu).square().sum(), leaf)[0]
        for f in (perceptron, perceptron_once)
    )
    torch.testing.assert_close(once, plain, rtol=1e-4, atol=1e-3)
