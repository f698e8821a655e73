"""The two-step task, which tells model-based from model-free behaviour (Daw et al. 2011)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from precocial.envs.base import EnvConfig, State, TensorTaskEnv
from precocial.seeding import rand
from precocial.types import Split, Tasks, UserError


@dataclass(frozen=True)
class TwoStepConfig(EnvConfig):
    """Options of ``two-step``."""

    episodes: int = 100
    """Episodes of a trial, each of two steps (n)."""
    common_chance: float = 0.8
    """Probability that the first action leads to its usual state."""
    reward_chance: float = 0.9
    """Probability of a reward in the good state; in the other one it is 1 minus this."""
    reversal_chance: float = 0.025
    """Probability, before each episode but the first, that the good state becomes the other."""
    hidden_transitions: bool = False
    """Tasks also differ in which state each first action usually leads to."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        super().__post_init__()
        if self.episodes < 1:
            raise UserError(f"--env-episodes is {self.episodes}; expected 1 or more")
        for name, low in (("common", 0.5), ("reward", 0.5), ("reversal", 0.0)):
            value = getattr(self, f"{name}_chance")
            if not low <= value <= 1:
                raise UserError(
                    f"--env-{name}-chance is {value}; expected a probability from {low:g} to 1"
                )


class TwoStep(TensorTaskEnv):
    """Choose the action that usually leads to where the rewards are, which changes.

    Observation: the state, one-hot: the first, or one of two second states. Action: one of 2. The
    first step's action 0 leads to second state 1 with probability 0.8, else to state 2; action 1
    the other way round. The second step's action has no effect. Reward: 0 on the first step; on
    the second 1 with probability 0.9 in the good state, 0.1 in the other, else 0.
    Start: the first state. Before each later episode of a trial, the good state becomes the other
    with probability 0.025; the first episode after a reset has the task's own. End: the horizon, 2
    steps. A trial is 100 episodes.
    Task distribution: which state is good at first (2 tasks); with ``hidden_transitions`` also
    whether the actions' usual states are swapped (4 tasks). Train and test tasks are the same.
    """

    name = "two-step"
    trial_episodes: int
    obs_dim = 3
    action_kind = "discrete"
    action_dim = 2
    cfg: TwoStepConfig

    def __init__(self, cfg: TwoStepConfig | None = None) -> None:
        cfg = cfg or TwoStepConfig()
        self.num_tasks: int = 4 if cfg.hidden_transitions else 2
        self.trial_episodes = cfg.episodes
        self.cfg = cfg
        super().__init__(cfg, horizon=2)

    def draw_tasks(self, n: int, split: Split, rng: torch.Generator) -> dict[str, Tensor]:
        """First good state (n,), 1 or 2, and whether transitions are swapped; balanced."""
        first = torch.randint(self.num_tasks, (), generator=rng, device=rng.device)
        number = (torch.arange(n, device=rng.device) + first) % self.num_tasks
        return {"good": 1 + number % 2, "swapped": number // 2, "id": number}

    def initial(
        self, lanes: tuple[int, int], tasks: dict[str, Tensor], rng: torch.Generator
    ) -> State:
        """The first state; the task says which second one is good."""
        return {
            "s": torch.zeros(lanes, dtype=torch.long, device=rng.device),
            "good": tasks["good"].expand(lanes),
        }

    def restart(self, state: State, tasks: dict[str, Tensor], rng: torch.Generator) -> State:
        """The first state again; now and then the good state becomes the other."""
        draw = rand(state["s"].shape, rng)
        good = torch.where(draw < self.cfg.reversal_chance, 3 - state["good"], state["good"])
        return {"s": torch.zeros_like(state["s"]), "good": good}

    def transition(
        self, state: State, action: Int[Tensor, "n e"], tasks: dict[str, Tensor],
        rng: torch.Generator,
    ) -> State:  # fmt: skip
        """From the first state to a second one, where it stays."""
        rare = rand(action.shape, rng) >= self.cfg.common_chance
        second = 1 + (action ^ tasks["swapped"] ^ rare)
        return {"s": torch.where(state["s"] == 0, second, state["s"]), "good": state["good"]}

    def observation(self, state: State, tasks: dict[str, Tensor]) -> Float[Tensor, "n e 3"]:
        """One-hot."""
        return torch.nn.functional.one_hot(state["s"], 3).float()

    def reward(
        self, state: State, action: Int[Tensor, "n e"], next_state: State,
        tasks: dict[str, Tensor], rng: torch.Generator,
    ) -> Float[Tensor, "n e"]:  # fmt: skip
        """A coin in the second state."""
        at_good, high = state["s"] == state["good"], self.cfg.reward_chance
        chance = torch.where(at_good, high, 1 - high)
        draw = rand(action.shape, rng)
        return ((state["s"] > 0) & (draw < chance)).float()

    def task_features(self, tasks: Tasks) -> Float[Tensor, "n 2"]:
        """First good state and swap, -1 or +1 each."""
        numbers = torch.stack([tasks.params["good"] - 1, tasks.params["swapped"]], -1)
        return 2.0 * numbers - 1

    def optimum(self, tasks: Tasks) -> Float[Tensor, " n"]:
        """Expected total over the trial of who is told the good state before every episode."""
        return torch.full((tasks.num,), self._informed * self.trial_episodes)

    @property
    def _informed(self) -> float:
        """Expected return of an episode for whom the good state is known."""
        common, high = self.cfg.common_chance, self.cfg.reward_chance
        return common * high + (1 - common) * (1 - high)

    def references(
        self, tasks: Tasks, episodes: int, rng: torch.Generator
    ) -> dict[str, Float[Tensor, "n k"]]:
        """Random and informed (told the good state each time) in expectation, exact belief played.

        Acting greedily on the exact belief is optimal: what one learns does not depend on the
        actions, since the two second states tell equally much, and so do the two first actions.
        """
        shape = (tasks.num, episodes)
        return {
            "random": torch.full(shape, 0.5, device=rng.device),
            "informed": torch.full(shape, self._informed, device=rng.device),
            "exact belief": self._play_on_belief(tasks, episodes, rng),
        }

    def _play_on_belief(
        self, tasks: Tasks, episodes: int, rng: torch.Generator
    ) -> Float[Tensor, "n k"]:
        world = {k: v.unsqueeze(1).to(rng.device) for k, v in tasks.params.items()}
        lanes = (tasks.num, 1)
        filtered = self.belief()
        state = self.initial(lanes, world, rng)
        belief = filtered.prior(self.observation(state, world))
        returns = []
        for _ in range(episodes):
            total = torch.zeros(lanes, device=rng.device)
            action = filtered.best_first_action(belief)
            for _ in range(self.spec.horizon):
                following = self.transition(state, action, world, rng)
                reward = self.reward(state, action, following, world, rng)
                obs, next_obs = (self.observation(s, world) for s in (state, following))
                belief = filtered.update(belief, obs, action, reward, next_obs)
                total += reward
                state = following
            returns.append(total)
            state = self.restart(state, world, rng)
        return torch.cat(returns, 1)

    def belief(self) -> TwoStepBelief:
        """The Bayes filter over the good state, and over the swap where it is hidden."""
        return TwoStepBelief(self.cfg)


class TwoStepBelief:
    """Exact filter: the good state, which may change between episodes, and the swap, which stays.

    Given what was seen the two are independent: transitions tell of the swap, rewards of the good
    state. Leaves, each (N, E): ``first``, the probability that second state 1 is good in the
    episode under way or about to begin, and ``swapped``.
    """

    def __init__(self, cfg: TwoStepConfig) -> None:
        self.cfg = cfg
        self.dim = 2 if cfg.hidden_transitions else 1

    def prior(self, obs: Float[Tensor, "n e 3"]) -> dict[str, Tensor]:
        """Either state may be good; actions may be swapped where that is hidden."""
        half = torch.full(obs.shape[:2], 0.5, device=obs.device)
        return {"first": half, "swapped": half * self.cfg.hidden_transitions}

    def update(
        self, belief: dict[str, Tensor], obs: Float[Tensor, "n e 3"], action: Int[Tensor, "n e"],
        reward: Float[Tensor, "n e"], next_obs: Float[Tensor, "n e 3"],
    ) -> dict[str, Tensor]:  # fmt: skip
        """A transition tells of the swap, a reward of the good state, which then may change."""
        first, swapped = belief["first"], belief["swapped"]
        began = obs[..., 0] > 0
        usual = (next_obs[..., 2] > 0) == (action == 1)
        moved = _bayes(swapped, ~usual, self.cfg.common_chance)
        speaks_for = (obs[..., 1] > 0) == (reward > 0)  # for state 1 being the good one
        seen = _bayes(first, speaks_for, self.cfg.reward_chance)
        later = seen + self.cfg.reversal_chance * (1 - 2 * seen)
        return {
            "first": torch.where(began, first, later),
            "swapped": torch.where(began, moved, swapped),
        }

    def features(
        self, belief: dict[str, Tensor], obs: Float[Tensor, "n e o"]
    ) -> Float[Tensor, "n e d"]:
        """Which state is good, and whether actions are swapped: -1 to 1, 0 where nothing speaks."""
        leaves = [belief["first"], belief["swapped"]][: self.dim]
        return 2 * torch.stack(leaves, -1) - 1

    def best_first_action(self, belief: dict[str, Tensor]) -> Int[Tensor, "n e"]:
        """The action likelier to end in the good state; 0 where both are as likely."""
        # Action 0 usually leads to state 1; both signs turn where actions are swapped.
        return ((belief["first"] - 0.5) * (0.5 - belief["swapped"]) < 0).long()


def stay_probability(
    first_action: Int[Tensor, "*b k"], common: Bool[Tensor, "*b k"], rewarded: Bool[Tensor, "*b k"]
) -> Float[Tensor, "2 2"]:
    """How often the first action is repeated, by what came of it: [rewarded, common], 0 or 1 each.

    Daw's signature: model-based behaviour repeats after a reward that followed a *common*
    transition and after a missing one that followed a *rare* transition; model-free behaviour
    repeats after any reward. NaN where a case never came up. Of a ``Rollout`` of whole trials:
    first_action is ``action[..., ::2]``, rewarded ``reward[..., 1::2] > 0``, and a transition is
    common where ``first_action == 1`` and ``obs[..., 1::2, 2] == 1`` agree (actions not swapped).
    """
    stayed = (first_action[..., 1:] == first_action[..., :-1]).flatten()
    case = (2 * rewarded.long() + common.long())[..., :-1].flatten()
    count = torch.bincount(case, minlength=4)
    return (torch.bincount(case, stayed.float(), minlength=4) / count).reshape(2, 2).float()


def _bayes(
    belief: Float[Tensor, "n e"], speaks_for: Bool[Tensor, "n e"], strength: float
) -> Float[Tensor, "n e"]:
    """Posterior after a sign that is right with probability ``strength``."""
    likelihood = torch.where(speaks_for, strength, 1 - strength)
    weight = belief * likelihood
    return weight / (weight + (1 - belief) * (1 - likelihood))
