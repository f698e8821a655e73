"""The fast GRU against PyTorch's, one feature at a time."""

import pytest
import torch
from torch import Tensor, nn

from precocial.nets import gru
from precocial.nets.gru import bfloat16_supported, gru_sequence, gru_step

STEPS, INPUTS, SIZE = 7, 3, 5


@pytest.fixture(autouse=True)
def one_thread():
    """Small products on several threads are slow, on a machine with other work very slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks of steps, the last one shorter, at the sizes of a test."""
    monkeypatch.setattr(gru, "_BLOCK", 9 * SIZE)


def problem(lanes: int, rng: torch.Generator, steps=STEPS, inputs=INPUTS, size=SIZE):
    """Inputs of ``gru_sequence`` but ``keep``, all of which want a gradient, and a gradient."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    args = [
        draw(steps, lanes, inputs),
        draw(3 * size, inputs) / (2 * inputs**0.5),
        draw(3 * size, size) / (2 * size**0.5),
        draw(3 * size),
        draw(3 * size),
        draw(lanes, size),
    ]
    return [a.requires_grad_() for a in args], draw(steps, lanes, size)


def reference(args: list[Tensor], keep: Tensor | None = None) -> Tensor:
    """``nn.GRU``, or ``nn.GRUCell`` in a loop when the memory is cleared."""
    x, *weights, h = args
    if keep is None:
        return torch._VF.gru(x, h.unsqueeze(0), weights, True, 1, 0.0, True, False, False)[0]
    out = []
    for inputs, kept in zip(x, keep, strict=True):
        h = torch.gru_cell(inputs, h * kept.unsqueeze(-1), *weights)
        out.append(h)
    return torch.stack(out)


def relative_error(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).detach().norm() / wanted.detach().norm())


@pytest.mark.parametrize("lanes", [1, 3, 4, 11])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_pytorch(lanes, masked, small_blocks, double, rng):
    args, grad = problem(lanes, rng)
    keep = (torch.rand(STEPS, lanes, generator=rng) < 0.7).double() if masked else None
    out, wanted = gru_sequence(*args, keep), reference(args, keep)
    torch.testing.assert_close(out, wanted, rtol=0, atol=1e-12)
    got = torch.autograd.grad(out, args, grad)
    for g, w in zip(got, torch.autograd.grad(wanted, args, grad), strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("lanes", "inputs", "size"), [(130, 33, 128), (64, 130, 200), (40, 7, 9)])
def test_equals_pytorch_at_real_sizes(lanes, inputs, size, rng):
    args, grad = problem(lanes, rng, 12, inputs, size)
    out, wanted = gru_sequence(*args), reference(args)
    torch.testing.assert_close(out, wanted, rtol=1e-6, atol=1e-6)
    got = torch.autograd.grad(out, args, grad)
    for g, w in zip(got, torch.autograd.grad(wanted, args, grad), strict=True):
        assert relative_error(g, w) < 1e-6


def test_module_weights_fit(rng):
    module = nn.GRU(INPUTS, SIZE)
    x = torch.randn(STEPS, 4, INPUTS, generator=rng)
    out = gru_sequence(x, *module.parameters(), torch.zeros(4, SIZE))
    torch.testing.assert_close(out, module(x)[0], rtol=0, atol=1e-6)


def test_gradcheck(small_blocks, double, rng):
    args, _ = problem(5, rng, steps=4, inputs=2, size=3)
    keep = torch.ones(4, 5)
    keep[2, 1:3] = 0
    assert torch.autograd.gradcheck(lambda *a: gru_sequence(*a, keep), args, fast_mode=True)


@pytest.mark.parametrize("wanted", [[0], [5], [1, 2, 3, 4], [2], [0, 3]])
def test_only_wanted_gradients(wanted, double, rng):
    args, grad = problem(4, rng)
    every = torch.autograd.grad(gru_sequence(*args), args, grad)
    args = [a.detach().requires_grad_(i in wanted) for i, a in enumerate(args)]
    got = torch.autograd.grad(gru_sequence(*args), [args[i] for i in wanted], grad)
    for i, g in zip(wanted, got, strict=True):
        torch.testing.assert_close(g, every[i], rtol=0, atol=0)


@pytest.mark.skipif(not bfloat16_supported(), reason="no bfloat16 products")
@pytest.mark.parametrize("masked", [False, True])
def test_bfloat16_is_close(masked, rng):
    """bfloat16 rounds to 2^-9 = 0.2 %: a few of these are allowed, relative, over 30 steps."""
    args, grad = problem(70, rng, 30, 16, 64)
    keep = (torch.rand(30, 70, generator=rng) < 0.9).float() if masked else None
    out, wanted = gru_sequence(*args, keep, precision="bfloat16"), gru_sequence(*args, keep)
    assert out.dtype == torch.float32
    assert 0 < relative_error(out, wanted) < 0.01
    got = torch.autograd.grad(out, args, grad)
    for g, w in zip(got, torch.autograd.grad(wanted, args, grad), strict=True):
        assert g.dtype == torch.float32
        assert relative_error(g, w) < 0.01


def test_lanes_do_not_mix(small_blocks, double, rng):
    args, grad = problem(11, rng)
    order = torch.randperm(11, generator=rng)
    x, *weights, h0 = args
    keep = (torch.rand(STEPS, 11, generator=rng) < 0.7).double()
    out = gru_sequence(*args, keep)
    moved = gru_sequence(x[:, order], *weights, h0[order], keep[:, order])
    torch.testing.assert_close(moved, out[:, order], rtol=0, atol=1e-14)
    (a,) = torch.autograd.grad(out, x, grad)
    (b,) = torch.autograd.grad(moved, x, grad[:, order])
    torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_strided_inputs_and_gradients(double, rng):
    args, grad = problem(4, rng)
    flipped = args[0].detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    out, same = gru_sequence(*args), gru_sequence(flipped, *args[1:])
    (a,) = torch.autograd.grad(out, args[0], grad)
    (b,) = torch.autograd.grad(same, flipped, grad.transpose(0, 1).contiguous().transpose(0, 1))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    (a,) = torch.autograd.grad(gru_sequence(*args).sum(), args[0])
    (b,) = torch.autograd.grad(gru_sequence(*args), args[0], torch.ones_like(grad))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_nothing_is_saved_without_a_graph(rng, monkeypatch):
    monkeypatch.setattr(gru, "_Memory", None)  # what keeps the gates
    args, _ = problem(4, rng)
    with torch.no_grad():
        out = gru_sequence(*args)
    assert not out.requires_grad
    assert not gru_sequence(*(a.detach() for a in args)).requires_grad


def test_memory_in_use_is_not_used_again(double, rng):
    """Two graphs at once, and a graph walked twice, each have their own gates."""
    args, grad = problem(4, rng)
    first = gru_sequence(*args)
    second = gru_sequence(*(a.detach() * 2 for a in args[:1]), *args[1:])
    again = torch.autograd.grad(second, args[2], grad, retain_graph=True)[0]
    got = torch.autograd.grad(first, args[2], grad, retain_graph=True)[0]
    wanted = torch.autograd.grad(reference(args), args[2], grad)[0]
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
    assert torch.equal(torch.autograd.grad(second, args[2], grad)[0], again)
    assert torch.equal(torch.autograd.grad(first, args[2], grad)[0], got)


def test_memory_kept_for_later_is_bounded(rng, monkeypatch):
    monkeypatch.setattr(gru._Memory, "most_bytes", 10_000)
    for size in (10, 1_000, 2_000, 100_000, 1_500, 20):
        del_me = gru._Memory.like(torch.zeros(1), size)
        del del_me
        assert sum(flat.nbytes for flat in gru._Memory.free) <= 10_000
    assert [flat.numel() for flat in gru._Memory.free] == [1_500, 20]  # the latest


def test_runs_are_equal(rng):
    args, grad = problem(130, rng, 12, 16, 64)
    runs = [torch.autograd.grad(gru_sequence(*args), args, grad) for _ in range(3)]
    assert all(torch.equal(a, b) for run in runs for a, b in zip(run, runs[0], strict=True))


@pytest.mark.parametrize(("lanes", "size"), [(4, SIZE), (64, 256)])
def test_step_equals_sequence(lanes, size, rng):
    args, _ = problem(lanes, rng, size=size)
    x, *weights, h = args
    wanted = gru_sequence(*args)
    for inputs, expected in zip(x, wanted, strict=True):
        h = gru_step(inputs, h, *weights)
        assert not h.requires_grad
        torch.testing.assert_close(h, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu(double, rng):
    args, grad = problem(40, rng)
    there = [a.detach().cuda().requires_grad_() for a in args]
    keep = torch.ones(STEPS, 40)
    out, wanted = gru_sequence(*there, keep.cuda()), reference(args, keep)
    torch.testing.assert_close(out.cpu(), wanted, rtol=0, atol=1e-10)
    got = torch.autograd.grad(out, there, grad.cuda())
    for g, w in zip(got, torch.autograd.grad(wanted, args, grad), strict=True):
        torch.testing.assert_close(g.cpu(), w, rtol=0, atol=1e-10)
