"""Policies of Stable-Baselines3 2.x: their zips read without running what is pickled in them.

A zip holds tensors (``policy.pth``), which torch loads with ``weights_only``, and a JSON of
settings (``data``), in which classes and spaces are pickled beside what can be read of them. The
networks are rebuilt from the names and sizes of the tensors, so an architecture that is not known
here is refused by the name of a tensor that has no place.

PPO, A2C, DQN, SAC, TD3 and DDPG; MlpPolicy, CnnPolicy, MultiInputPolicy; gSDE; VecNormalize.
``predict`` computes what SB3's does, by the same operations in the same order.
"""

from __future__ import annotations

import base64
import io
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from precocial.bridges import inert
from precocial.errors import UserError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    name: getattr(nn, name)
    for name in ("Tanh", "ReLU", "ELU", "LeakyReLU", "GELU", "SiLU", "Sigmoid", "Softplus", "Mish")
}
SUCCESSORS = {"PPO or A2C": "ppo", "DQN": "dqn", "SAC": "sac", "TD3 or DDPG": "sac"}
"""What goes on from a policy of each kind here, in the order in which they are looked for."""
KEPT = ("observation_space", "action_space", "gamma", "num_timesteps")
KEYWORDS = ("activation_fn", "clip_mean", "squash_output", "normalize_images")
"""What counts of a zip's settings, and of its policy's keywords."""
MOST = 2**32
"""Bytes that a member of a zip may have."""
TIGHTEST = 20
"""Times that it may have been larger before it was packed."""


class Archive(NamedTuple):
    """What a zip holds."""

    data: dict[str, Any]
    params: dict[str, Tensor]


def read_zip(path: Path) -> Archive:
    """Settings and tensors of a zip.

    Raises:
        UserError: it is no zip of SB3's, damaged, or its tensors are more than tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {i.filename: i for i in archive.infolist()}
            if missing := {"data", "policy.pth"} - members.keys():
                raise UserError(
                    f"{path} has no {' and no '.join(sorted(missing))}; expected a zip that "
                    "Stable-Baselines3 2.x saved"
                )
            for name in ("data", "policy.pth"):
                size, packed = members[name].file_size, members[name].compress_size
                if size > MOST or size > TIGHTEST * packed + 2**20:
                    raise UserError(
                        f"{path}: {name} would unpack {packed} bytes to {size}; SB3 packs nothing"
                    )
            text, weights = archive.read("data"), archive.read("policy.pth")
    except (
        zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError,
        NotImplementedError,
    ) as error:  # fmt: skip
        raise UserError(f"{path} is damaged or no zip ({error})") from error
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its settings are no JSON ({error})") from error
    try:
        params = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler raises whatever a damaged file leads to
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: policy.pth holds more than tensors, or is damaged, and is not loaded "
            f"({first[:120]})"
        ) from error
    tensors = isinstance(params, dict) and all(
        isinstance(k, str) and isinstance(p, Tensor) for k, p in params.items()
    )
    if not isinstance(data, dict) or not tensors:
        raise UserError(f"{path}: expected settings and named tensors as SB3 2.x saves them")
    return Archive(data, {k: plain(p, f"{path}: {k}") for k, p in params.items()})


def plain(tensor: Tensor, place: str) -> Tensor:
    """A tensor of weights in single precision.

    Raises:
        UserError: it holds something else than finite numbers, or fewer than its sizes say.
    """
    usual = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not usual or not tensor.is_floating_point():
        raise UserError(f"{place} is a tensor of {tensor.dtype}, {tensor.layout}; expected weights")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(f"{place} has sizes {tuple(tensor.shape)}, but not as many numbers")
    if not bool(torch.isfinite(tensor).all()):
        raise UserError(f"{place} holds numbers that are not finite")
    return tensor.float().contiguous()


# ---- spaces --------------------------------------------------------------------------------


def space_of(entry: Any, place: str) -> spaces.Space:
    """A space as a zip describes it.

    Raises:
        UserError: it cannot be read, or is of a kind that SB3 has no policy for.
    """
    if not isinstance(entry, dict) or ":type:" not in entry:
        raise UserError(f"{place} describes no space")
    pickled = entry.get(":serialized:", "")
    try:
        data = base64.b64decode(pickled, validate=True)
    except (ValueError, TypeError) as error:
        raise UserError(f"{place} is damaged ({error})") from error
    return _space(inert.read(data, place), place)


def _space(found: Any, place: str) -> spaces.Space:
    state = found.state if isinstance(found, inert.Inert) else {}
    kind = getattr(found, "kind", "").rpartition(".")[2]
    try:
        match kind:
            case "Box":
                low, high = (np.array(state[k]) for k in ("low", "high"))
                return spaces.Box(low, high, dtype=low.dtype.type)
            case "Discrete":
                return spaces.Discrete(int(state["n"]), start=int(state.get("start", 0)))
            case "MultiDiscrete":
                return spaces.MultiDiscrete(np.array(state["nvec"]))
            case "MultiBinary":
                n = state["n"]
                return spaces.MultiBinary(n if isinstance(n, int) else np.array(n).tolist())
            case "Dict":
                parts = state["spaces"]
                parts = parts.state if isinstance(parts, inert.Inert) else parts
                # A list keeps its order; of a dict the keys would be sorted.
                return spaces.Dict([(str(k), _space(v, place)) for k, v in parts.items()])
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise UserError(f"{place} describes no {kind} ({error!r})") from error
    raise UserError(
        f"{place} is a {kind or 'thing of no kind'}; expected Box, Discrete, MultiDiscrete, "
        "MultiBinary or a Dict of them"
    )


def is_image(space: spaces.Space) -> bool:
    """What SB3 takes for a picture: bytes in three axes, of 0 to 255."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
        return False
    return bool((space.low == 0).all() and (space.high == 255).all())


# ---- networks ------------------------------------------------------------------------------


def numbered(params: Mapping[str, Tensor], prefix: str) -> list[int]:
    """Of the layers ``prefix.I`` their numbers, in order."""
    found = (re.fullmatch(rf"{re.escape(prefix)}\.(\d+)\.weight", k) for k in params)
    return sorted(int(m[1]) for m in found if m)


def mlp(params: Mapping[str, Tensor], prefix: str, activation: type[nn.Module]) -> nn.Sequential:
    """Layers ``prefix.0``, ``prefix.2``, ... with activations between and after them.

    Raises:
        UserError: they do not follow each other.
    """
    numbers = numbered(params, prefix)
    if numbers != list(range(0, 2 * len(numbers), 2)):
        raise UserError(f"the layers of {prefix} are numbered {numbers}; expected 0, 2, 4, ...")
    layers: list[nn.Module] = []
    for i in numbers:
        weight = params[f"{prefix}.{i}.weight"]
        if weight.ndim != 2:
            raise UserError(f"{prefix}.{i}.weight has sizes {tuple(weight.shape)}, no matrix")
        layers += [linear_like(weight, params.get(f"{prefix}.{i}.bias")), activation()]
    return nn.Sequential(*layers)


def linear_like(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer of these sizes."""
    return nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)


class NatureCNN(nn.Module):
    """SB3's convolutions (Mnih et al. 2015)."""

    def __init__(self, params: Mapping[str, Tensor], prefix: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, stride in ((0, 4), (2, 2), (4, 1)):
            weight = params.get(f"{prefix}.cnn.{i}.weight")
            if weight is None or weight.ndim != 4:
                raise UserError(f"{prefix} is no NatureCNN: {prefix}.cnn.{i}.weight is missing")
            outputs, inputs, kernel = weight.shape[:3]
            layers += [nn.Conv2d(inputs, outputs, kernel, stride), nn.ReLU()]
        self.cnn = nn.Sequential(*layers, nn.Flatten())
        weight = params[f"{prefix}.linear.0.weight"]
        self.linear = nn.Sequential(linear_like(weight, weight), nn.ReLU())
        self.size = weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, F)."""
        return self.linear(self.cnn(x))


class Combined(nn.Module):
    """SB3's extractor of a Dict: convolutions for images, everything else as it is."""

    def __init__(self, params: Mapping[str, Tensor], prefix: str, space: spaces.Space) -> None:
        super().__init__()
        assert isinstance(space, spaces.Dict)
        self.extractors = nn.ModuleDict({
            k: NatureCNN(params, f"{prefix}.extractors.{k}") if is_image(s) else nn.Flatten()
            for k, s in space.spaces.items()
        })  # fmt: skip

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        """(B, F)."""
        return torch.cat([net(x[k]) for k, net in self.extractors.items()], 1)


def extractor(params: Mapping[str, Tensor], prefix: str, space: spaces.Space) -> nn.Module:
    """What comes before the layers."""
    if isinstance(space, spaces.Dict):
        return Combined(params, prefix, space)
    by_convolutions = is_image(space) and any(k.startswith(f"{prefix}.cnn.") for k in params)
    return NatureCNN(params, prefix) if by_convolutions else nn.Flatten()


def features(extractor: nn.Module, space: spaces.Space) -> int:
    """How many numbers an extractor makes of an observation."""
    if isinstance(extractor, Combined) and isinstance(space, spaces.Dict):
        return sum(features(extractor.extractors[k], s) for k, s in space.spaces.items())
    return extractor.size if isinstance(extractor, NatureCNN) else spaces.flatdim(space)


class Network(nn.Module):
    """A policy's networks by SB3's names, as far as acting needs them.

    Args:
        params: All tensors of the zip.
        space: Of observations.
        activation: Between the layers.
        clip_mean: Of a gSDE policy of SAC, the largest mean before squashing.
    """

    pi_features_extractor: Any
    mlp_extractor: Any
    action_net: Any
    q_net: Any
    actor: Any
    log_std: Any

    def __init__(
        self, params: Mapping[str, Tensor], space: spaces.Space, activation: type[nn.Module],
        clip_mean: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kind = kind = kind_of(params)
        if kind == "PPO or A2C":
            self.pi_features_extractor = extractor(params, "pi_features_extractor", space)
            self.mlp_extractor = nn.Module()
            self.mlp_extractor.policy_net = mlp(params, "mlp_extractor.policy_net", activation)
            self.action_net = linear_like(params["action_net.weight"], params["action_net.bias"])
        elif kind == "DQN":
            self.q_net = nn.Module()
            self.q_net.features_extractor = extractor(params, "q_net.features_extractor", space)
            self.q_net.q_net = mlp(params, "q_net.q_net", activation)[:-1]
        else:
            self.actor = nn.Module()
            self.actor.features_extractor = extractor(params, "actor.features_extractor", space)
            if kind == "SAC":
                self.actor.latent_pi = mlp(params, "actor.latent_pi", activation)
                if "actor.mu.0.weight" in params:  # gSDE bounds the mean
                    weight, bias = params["actor.mu.0.weight"], params["actor.mu.0.bias"]
                    bound = nn.Hardtanh(-clip_mean, clip_mean)
                    self.actor.mu = nn.Sequential(linear_like(weight, bias), bound)
                else:
                    weight, bias = params["actor.mu.weight"], params["actor.mu.bias"]
                    self.actor.mu = linear_like(weight, bias)
            else:
                hidden = list(mlp(params, "actor.mu", activation))[:-1]
                self.actor.mu = nn.Sequential(*hidden, nn.Tanh())
        if "log_std" in params:
            self.log_std = nn.Parameter(torch.zeros_like(params["log_std"]))
        if kind == "SAC":
            self.spread(params)

    def spread(self, params: Mapping[str, Tensor]) -> None:
        """The deviations of SAC's policy."""
        if "actor.log_std" in params:
            self.actor.log_std = nn.Parameter(torch.zeros_like(params["actor.log_std"]))
        else:
            weight, bias = params["actor.log_std.weight"], params["actor.log_std.bias"]
            self.actor.log_std = linear_like(weight, bias)

    def latent(self, x: Any) -> Tensor:
        """What the last layer of the policy reads."""
        if self.kind == "PPO or A2C":
            return self.mlp_extractor.policy_net(self.pi_features_extractor(x))
        if self.kind == "SAC":
            return self.actor.latent_pi(self.actor.features_extractor(x))
        net = self.q_net if self.kind == "DQN" else self.actor
        return net.features_extractor(x)

    def output(self, latent: Tensor) -> Tensor:
        """Logits, means, or values of actions."""
        if self.kind == "PPO or A2C":
            return self.action_net(latent)
        return self.q_net.q_net(latent) if self.kind == "DQN" else self.actor.mu(latent)

    def log_stds(self, latent: Tensor, like: Tensor) -> Tensor:
        """Of the Gaussian before it is squashed; with gSDE what a new draw of noise gives."""
        if self.kind == "SAC" and isinstance(self.actor.log_std, nn.Linear):
            return self.actor.log_std(latent).clamp(-20, 2)
        own = self.actor.log_std if self.kind == "SAC" else self.log_std
        if own.ndim == 1:
            return own.expand_as(like)
        return 0.5 * (latent.square() @ (2 * own).exp() + 1e-6).log()


def kind_of(params: Mapping[str, Tensor]) -> str:
    """Which algorithms' policy it is.

    Raises:
        UserError: none's that is known.
    """
    marks = ("action_net.weight", "q_net.q_net.0.weight", "actor.latent_pi.0.weight")
    for kind, mark in zip(SUCCESSORS, (*marks, "actor.mu.0.weight"), strict=True):
        if mark in params:
            return kind
    some = ", ".join(list(params)[:3])
    raise UserError(
        f"the policy has the tensors {some}, ...; expected one of PPO, A2C, DQN, SAC, TD3 or DDPG"
    )


NOT_ACTING = re.compile(
    r"(vf_features_extractor|features_extractor|mlp_extractor\.value_net|value_net|critic|critic_target|q_net_target"
    r"|actor_target)\."
)
"""Tensors that acting does without."""


# ---- a policy ------------------------------------------------------------------------------


class Normaliser(NamedTuple):
    """VecNormalize: what it makes of observations."""

    mean: dict[str, np.ndarray]
    """By the key of a Dict, "" for others."""
    var: dict[str, np.ndarray]
    seen: float
    """How many observations they are of."""
    clip: float
    epsilon: float

    def __call__(self, key: str, obs: np.ndarray) -> np.ndarray:
        """As ``VecNormalize.normalize_obs``."""
        if key not in self.mean:
            return obs
        scaled = (obs - self.mean[key]) / np.sqrt(self.var[key] + self.epsilon)
        return np.clip(scaled, -self.clip, self.clip).astype(np.float32)


def read_vecnormalize(path: Path) -> Normaliser | None:
    """Statistics of a ``VecNormalize`` file; None for one that leaves observations as they are.

    Raises:
        UserError: it is none.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    found = inert.read(path.read_bytes(), str(path))
    if not isinstance(found, inert.Inert) or not found.kind.endswith("VecNormalize"):
        kind = getattr(found, "kind", type(found).__name__)
        raise UserError(f"{path} is a {kind}; expected what VecNormalize.save wrote")
    state = found.state
    if not state.get("norm_obs", True):
        return None
    stats: Any = state.get("obs_rms")
    each: dict[str, Any] = stats if isinstance(stats, dict) else {"": stats}
    try:
        mean, var = (
            {k: np.asarray(v.state[name], np.float64) for k, v in each.items()}
            for name in ("mean", "var")
        )
        count = float(next(iter(each.values())).state["count"])
        return Normaliser(mean, var, count, float(state["clip_obs"]), float(state["epsilon"]))
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise UserError(f"{path} holds no statistics of observations ({error!r})") from error


class SB3Policy:
    """A policy as it was trained, which predicts what SB3 would.

    Args:
        data: Settings of the zip.
        params: Its tensors.
        normaliser: Of a ``VecNormalize`` file.
        place: Where it is from, for messages.

    Raises:
        UserError: what it is made of is not known.
    """

    def __init__(
        self, data: dict[str, Any], params: dict[str, Tensor], normaliser: Normaliser | None,
        place: str,
    ) -> None:  # fmt: skip
        self.params, self.normaliser, self.place = params, normaliser, place
        kwargs = data.get("policy_kwargs") or {}
        if not isinstance(kwargs, dict):
            raise UserError(f"{place}: its policy_kwargs are {kwargs!r}; expected names and values")
        self.kwargs = {k: v for k, v in kwargs.items() if k in KEYWORDS}
        self.data = {k: data.get(k) for k in KEPT} | {"policy_kwargs": self.kwargs}
        """What is needed of the settings."""
        self.observation_space, self.action_space = (
            space_of(data.get(f"{name}_space"), f"{place}: {name}_space")
            for name in ("observation", "action")
        )
        self.kind = kind_of(params)
        self.activation = self._activation()
        self.steps, clip_mean = data.get("num_timesteps") or 0, self.kwargs.get("clip_mean", 2.0)
        if not isinstance(self.steps, int) or not isinstance(clip_mean, int | float):
            raise UserError(
                f"{place}: num_timesteps is {self.steps!r} and clip_mean {clip_mean!r}; expected "
                "numbers"
            )
        activation = ACTIVATIONS[self.activation]
        try:
            self.net = Network(params, self.observation_space, activation, clip_mean)
        except (KeyError, IndexError) as error:
            raise UserError(f"{place}: a layer is missing or no matrix ({error})") from error
        self._load()
        self._require_sizes()
        self.net.eval()

    def _activation(self) -> str:
        usual = "Tanh" if self.kind == "PPO or A2C" else "ReLU"
        said = self.kwargs.get("activation_fn")
        if said is None:
            return usual
        name = re.fullmatch(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>", str(said))
        if not name or name[1] not in ACTIVATIONS:
            raise UserError(
                f"{self.place}: its activation is {said}; expected one of {', '.join(ACTIVATIONS)}"
            )
        return name[1]

    def _load(self) -> None:
        if not self.kwargs.get("normalize_images", True):
            raise UserError(f"{self.place}: normalize_images is off, which is not known here")
        own = self.net.state_dict()
        params = dict(self.params)
        for k in own:  # a shared extractor is stored under its first name in older versions
            if k not in params and k.startswith("pi_features_extractor."):
                params[k] = params.get(k.removeprefix("pi_"), own[k])
        for k in params:
            if k not in own and not NOT_ACTING.match(k):
                raise UserError(
                    f"{self.place}: {k} has no place in a policy of {self.kind} that is known "
                    "here; recurrent policies and feature extractors of one's own are not"
                )
        missing = [k for k in own if k not in params]
        wrong = [k for k in own if k in params and params[k].shape != own[k].shape]
        if missing or wrong:
            raise UserError(f"{self.place}: {(missing + wrong)[0]} is missing or of another size")
        self.net.load_state_dict({k: params[k] for k in own})

    def _require_sizes(self) -> None:
        """Refuse layers that do not fit the spaces."""
        net, action = self.net, self.action_space
        parts: tuple[Any, ...]
        match self.kind:
            case "PPO or A2C":
                parts = net.pi_features_extractor, net.mlp_extractor.policy_net, net.action_net
            case "DQN":
                parts = net.q_net.features_extractor, net.q_net.q_net
            case "SAC":
                parts = net.actor.features_extractor, net.actor.latent_pi, net.actor.mu
            case _:
                parts = net.actor.features_extractor, net.actor.mu
        layers = [m for part in parts[1:] for m in part.modules() if isinstance(m, nn.Linear)]
        seen = features(parts[0], self.observation_space)
        done = spaces.flatdim(action)
        if (layers[0].in_features, layers[-1].out_features) != (seen, done):
            raise UserError(
                f"{self.place}: its layers read {layers[0].in_features} numbers and give "
                f"{layers[-1].out_features}; its spaces have {seen} and {done}"
            )

    @property
    def squashes(self) -> bool:
        """Whether actions are of -1 to 1, and scaled to the bounds."""
        off_policy = self.kind in ("SAC", "TD3 or DDPG")
        return off_policy or bool(self.kwargs.get("squash_output", False))

    # ---- observations ---------------------------------------------------------------------

    def prepared(self, space: spaces.Space, obs: np.ndarray, key: str = "") -> Tensor:
        """A batch of one part of an observation as the network takes it."""
        if self.normaliser is not None:
            obs = self.normaliser(key, obs)
        if is_image(space):
            return torch.as_tensor(obs).float() / 255.0
        x = torch.as_tensor(obs)
        match space:
            case spaces.Discrete():
                return nn.functional.one_hot(x.long(), int(space.n)).float()
            case spaces.MultiDiscrete():
                split = x.long().split(1, 1)
                hot = [
                    nn.functional.one_hot(part.squeeze(1), int(n)).float()
                    for n, part in zip(space.nvec, split, strict=True)
                ]
                return torch.cat(hot, -1)
        return x.float()

    def batched(self, obs: Any) -> tuple[Any, bool]:
        """Observations as the network takes them, and whether they came as a batch.

        Raises:
            UserError: they are of another shape.
        """
        if isinstance(self.observation_space, spaces.Dict):
            parts = self.observation_space.spaces
            if not isinstance(obs, dict) or obs.keys() != parts.keys():
                raise UserError(f"the observation has other keys; expected {list(parts)}")
            each = {k: self._rows(space, obs[k], k) for k, space in parts.items()}
            batch = {k: self.prepared(parts[k], rows, k) for k, (rows, _) in each.items()}
            return batch, next(iter(each.values()))[1]
        rows, many = self._rows(self.observation_space, obs, "")
        return self.prepared(self.observation_space, rows), many

    def _rows(self, space: spaces.Space, obs: Any, key: str) -> tuple[np.ndarray, bool]:
        array, shape = np.asarray(obs), tuple(space.shape or ())
        if is_image(space):
            array = channels_first(array, shape)
        if array.shape == shape:
            return array.reshape(-1, *shape), False
        if array.shape[1:] == shape:
            return array, True
        raise UserError(
            f"the observation{f' {key!r}' if key else ''} has shape {array.shape}; expected {shape}"
        )

    # ---- actions --------------------------------------------------------------------------

    @torch.no_grad()
    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """Actions in the environment's units, as SB3's ``predict``; the state is handed through.

        Raises:
            UserError: an observation of another shape.
        """
        x, many = self.batched(obs)
        actions = self.actions(x, deterministic=deterministic)
        return (actions if many else actions.squeeze(axis=0)), state

    @torch.no_grad()
    def actions(
        self, x: Any, *, deterministic: bool, rng: torch.Generator | None = None
    ) -> np.ndarray:
        """Of prepared observations, (B, ...); ``rng`` draws them, else torch's own generator."""
        latent = self.net.latent(x)
        out, space = self.net.output(latent), self.action_space
        match space:
            case spaces.Discrete() if self.kind == "DQN":
                drawn = out.argmax(1).reshape(-1)
            case spaces.Discrete():
                drawn = _choose(out, deterministic, rng)
            case spaces.MultiDiscrete():
                parts = out.split([int(n) for n in space.nvec], 1)
                drawn = torch.stack([_choose(part, deterministic, rng) for part in parts], 1)
            case spaces.MultiBinary():
                chance = torch.distributions.Bernoulli(logits=out).probs
                drawn = chance.round() if deterministic else chance.bernoulli(generator=rng)
            case _:
                if not deterministic and self.kind != "TD3 or DDPG":
                    spread = self.net.log_stds(latent, out).exp()
                    out = out + spread * torch.randn(out.shape, generator=rng)
                squashed = self.squashes and self.kind != "TD3 or DDPG"
                drawn = torch.tanh(out) if squashed else out
        actions = drawn.numpy().reshape((-1, *(space.shape or ())))
        if isinstance(space, spaces.Box):
            low, high = space.low, space.high
            if self.squashes:
                return low + (0.5 * (actions + 1.0) * (high - low))
            return np.clip(actions, low, high)
        return actions


def channels_first(picture: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One or a batch of images, which environments give with their channels last."""
    last = (*shape[1:], shape[0])
    if picture.shape == last != shape:
        return picture.transpose(2, 0, 1)
    return picture.transpose(0, 3, 1, 2) if picture.shape[1:] == last != shape else picture


def _choose(logits: Tensor, deterministic: bool, rng: torch.Generator | None) -> Tensor:
    chances = torch.distributions.Categorical(logits=logits).probs
    return chances.argmax(1) if deterministic else chances.multinomial(1, generator=rng).squeeze(1)


def load_policy(path: Path, vecnormalize: Path | None = None) -> SB3Policy:
    """The policy of a zip.

    Raises:
        UserError: a file is missing, damaged, hostile, or of a kind that is not known.
    """
    archive = read_zip(path)
    normaliser = read_vecnormalize(vecnormalize) if vecnormalize else None
    return SB3Policy(archive.data, archive.params, normaliser, str(path))
