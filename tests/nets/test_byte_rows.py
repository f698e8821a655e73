"""Rows of bytes: how pictures lie in them, and what networks make of them."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from precocial.envs.own.layout import Layout, counts
from precocial.nets import pictures
from precocial.nets.mlp import Policy
from precocial.ops.params import expand
from precocial.types import EnvSpec, Picture, UserError


def spec_of(picture, action_dim=2):
    return EnvSpec("seen", picture.size, "discrete", action_dim, (), (), 5, None, 1,
                   picture=picture)  # fmt: skip


def rows_of(picture, num, rng):
    pixels = torch.randint(0, 256, (num, picture.size - 4 * picture.numbers), generator=rng)
    numbers = torch.randn(num, picture.numbers, generator=rng)
    return pictures.beside(pixels.byte(), numbers), pixels, numbers


@given(st.integers(16, 100), st.sampled_from([1, 3, 4, 6]), st.data())
@settings(max_examples=60, deadline=None)
def test_what_lies_in_a_row_follows_from_its_length(side, channels, data):
    numbers = data.draw(st.integers(0, ((2 * side + 1) * channels - 1) // 4))
    picture = Picture(side, channels, numbers)
    assert pictures.layout(picture.size, channels) == picture
    rng = torch.Generator().manual_seed(side)
    rows, pixels, own = rows_of(picture, 2, rng)
    assert rows.dtype == torch.uint8 and rows.shape == (2, picture.size)
    assert torch.equal(pictures.numbers_of(rows, picture), own)  # to the bit
    assert torch.equal(pictures.pixels_of(rows, picture).flatten(1), pixels.byte())


def test_one_number_too_many_is_refused():
    most = Picture(16, 1, 8)  # 32 bytes of the 33 that two rows and a pixel have
    assert pictures.with_numbers(most._replace(numbers=0), 8, "seen") == most
    with pytest.raises(UserError, match=r"seen shows pictures of 16 x 16 with 9 numbers"):
        pictures.with_numbers(most, 1, "seen")


def convolved(params, pixels, picture):
    """The same by torch's own convolutions."""
    x = pixels.view(-1, *picture.shape).permute(0, 3, 1, 2).float() / 255
    seen = 4 * (picture.side // 4)
    x = x - x[..., :seen, :seen].mean((2, 3), keepdim=True)
    for i, (stride, channels) in enumerate(pictures.LAYERS):
        weight = params[f"conv_{i}"].view(stride, stride, -1, channels).permute(3, 2, 0, 1)
        bias = params[f"conv_bias_{i}"]
        x = torch.relu(torch.nn.functional.conv2d(x, weight, bias, stride=stride))
    x = x.permute(0, 2, 3, 1).flatten(1)
    return 8 * x / (x.square().sum(1, keepdim=True) + 1e-2).sqrt()


@pytest.mark.parametrize("side", [16, 21, 64])
def test_reading_is_two_convolutions_and_the_numbers(side, rng):
    picture = Picture(side, 3, 4)
    rows, pixels, numbers = rows_of(picture, 6, rng)
    params = pictures.initial(picture, rng)
    seen = pictures.read(params, rows)
    assert seen.shape == (6, pictures.out_dim(picture))
    torch.testing.assert_close(seen[:, :-4], convolved(params, pixels, picture))
    assert torch.equal(seen[:, -4:], numbers)
    # Two tasks with weights of their own
    other = {k: p * 0.5 + 0.01 for k, p in params.items()}
    stacked = {k: torch.stack([params[k], other[k]]) for k in params}
    both = pictures.read(stacked, rows.view(2, 3, -1))
    torch.testing.assert_close(both[0, :, :-4], convolved(params, pixels[:3], picture))
    torch.testing.assert_close(both[1, :, :-4], convolved(other, pixels[3:], picture))


def test_meta_gradients_go_through_convolutions(rng):
    """One inner step and its second derivative, against torch's convolutions."""
    picture = Picture(16, 1)
    rows, pixels, _ = rows_of(picture, 8, rng)
    theta = {k: p.requires_grad_() for k, p in pictures.initial(picture, rng).items()}
    grads = []
    for features in (
        lambda phi: pictures.read(phi, rows.view(1, 8, -1))[0],
        lambda phi: convolved({k: p[0] for k, p in phi.items()}, pixels, picture),
    ):
        phi = expand(theta, 1)
        inner = torch.autograd.grad(
            features(phi).square().sum(), list(phi.values()), create_graph=True
        )
        phi = {k: p - 0.1 * g for (k, p), g in zip(phi.items(), inner, strict=True)}
        grads.append(torch.autograd.grad(features(phi).sin().sum(), list(theta.values())))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


def test_a_policy_is_the_same_for_shared_and_for_stacked_parameters(rng):
    picture = Picture(16, 3, 2)
    rows, *_ = rows_of(picture, 4, rng)
    policy = Policy(spec_of(picture), (8,), "tanh", 1.0, True, rng)
    shared = policy.dist(policy.theta, rows)["logits"]
    stacked = policy.dist(expand(policy.theta, 2), rows.view(2, 2, -1))["logits"]
    torch.testing.assert_close(stacked.flatten(0, 1), shared)
    policy.update_statistics(rows)  # pictures are not normalised
    assert torch.equal(policy.dist(policy.theta, rows)["logits"], shared)


def test_thumbnails_are_averages(rng):
    picture = Picture(16, 3, 1)
    rows, pixels, numbers = rows_of(picture, 2, rng)
    seen = pictures.thumbnail(rows, spec_of(picture))
    assert seen.shape == (2, pictures.thumbnail_dim(spec_of(picture)))
    cells = pixels.view(2, 8, 2, 8, 2, 3).float().mean((2, 4)) / 255  # (2, 8, 8, 3)
    torch.testing.assert_close(seen[:, :-1], cells.permute(0, 3, 1, 2).flatten(1))
    assert torch.equal(seen[:, -1:], numbers)
    grey = pictures.thumbnail(rows, spec_of(picture), grey=True)
    torch.testing.assert_close(grey[:, :-1], cells.mean(-1).flatten(1))
    vector = torch.randn(2, 3, generator=rng)
    assert pictures.thumbnail(vector, EnvSpec("v", 3, "box", 1, (-1.0,), (1.0,), 5, None, 1)) is (
        vector
    )


# ---- spaces --------------------------------------------------------------------------------


def byte_box(*shape):
    return spaces.Box(0, 255, shape, np.uint8)


@pytest.mark.parametrize(
    ("space", "side", "channels"),
    [(byte_box(20, 20, 3), 20, 3), (byte_box(3, 20, 24), 24, 3), (byte_box(20, 24, 1), 24, 1),
     (byte_box(2, 20, 20, 3), 20, 6), (byte_box(4, 84, 84), 84, 4), (byte_box(64, 64, 12), 64, 12)],
)  # fmt: skip
def test_pictures_of_every_kind_lie_channels_last(space, side, channels):
    layout = Layout(space)
    assert (layout.side, layout.channels, layout.numbers) == (side, channels, 0)
    space.seed(0)
    obs = space.sample()
    row = layout.row(obs)
    assert row.dtype == np.uint8 and row.size == layout.size
    picture = row.reshape(side, side, channels)
    match space.shape:
        case (2, 20, 20, 3):
            assert (picture[..., :3] == obs[0]).all() and (picture[..., 3:] == obs[1]).all()
        case (3, 20, 24) | (4, 84, 84):
            assert (picture[: space.shape[1]] == obs.transpose(1, 2, 0)).all()
        case (h, w, _):
            assert (picture[:h, :w] == obs).all()
    assert not picture[20:].any() or side != 24  # black beside what is not square


@pytest.mark.parametrize(
    "space", [byte_box(7, 7, 3), byte_box(64), byte_box(64, 64),
              spaces.Box(0, 1, (64, 64, 3), np.float32)],
)  # fmt: skip
def test_other_arrays_are_vectors_as_before(space):
    layout = Layout(space)
    assert layout.plain and layout.dtype == np.float32
    space.seed(0)
    obs = space.sample()
    assert (layout.row(obs) == np.ravel(obs).astype(np.float32)).all()


def test_pictures_numbers_and_texts_share_a_row():
    space = spaces.Dict({
        "camera": byte_box(48, 48, 3), "below": byte_box(40, 16, 1),
        "speed": spaces.Box(-1, 1, (2,)), "gear": spaces.Discrete(3), "told": spaces.Text(20),
    })  # fmt: skip
    layout = Layout(space)
    layout.check("robot")
    assert (layout.side, layout.channels, layout.numbers) == (48, 4, 2 + 3 + 64)


def test_the_parts_of_a_row():
    space = spaces.Dict({
        "camera": byte_box(32, 32, 3), "speed": spaces.Box(-1, 1, (2,)),
        "gear": spaces.Discrete(3),
    })  # fmt: skip
    layout = Layout(space)
    layout.check("robot")
    space.seed(0)
    obs = space.sample()
    row = layout.row(obs)
    numbers = row[: 4 * layout.numbers].view(np.float32)
    gear = np.eye(3)[obs["gear"]]
    expected = {"gear": gear, "speed": obs["speed"]}
    assert (numbers == np.concatenate([expected[k] for k in space if k in expected])).all()
    assert (row[4 * layout.numbers :] == obs["camera"].ravel()).all()
    assert (layout.finite(row[None]) == numbers).all()


def test_too_many_numbers_beside_a_picture_are_refused():
    space = spaces.Tuple([byte_box(16, 16, 1), spaces.Box(-1, 1, (9,))])
    with pytest.raises(UserError, match=r"robot observes 9 numbers beside a picture of 16 x 16"):
        Layout(space).check("robot")
    with pytest.raises(UserError, match="does not flatten"):
        Layout(spaces.Sequence(spaces.Discrete(2))).check("robot")


def test_words_are_counted():
    one, other = counts("Go to the red ball"), counts("the RED ball, go to the ball!")
    assert one.sum() == 5 and other.sum() == 7
    assert set(np.flatnonzero(one)) == set(np.flatnonzero(other))
