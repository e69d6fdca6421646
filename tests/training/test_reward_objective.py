"""The reward objective: what it adds to the flow loss, and where its gradient goes."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from m4v.core.errors import UserError
from m4v.flow.schedule import PyramidSchedule
from m4v.recipes.debug import debug
from m4v.rewards.protocol import Sees
from m4v.training.flow_objective import PyramidFlowObjective
from m4v.training.latent_bank import LatentBank
from m4v.training.networks import Networks
from m4v.training.optim_config import PerDevice
from m4v.training.reward_config import RewardGuardConfig, RewardStageConfig
from m4v.training.reward_decoding import decode_unit
from m4v.training.reward_objective import RewardObjective
from m4v.training.row_share import RowShare

EIGHT = PerDevice(cpu=8, accelerator=8)


class Darkness:
    """A reward with one weight: the mean of the pixels times -1; remembers what it saw."""

    sees: Sees = "clip"

    def __init__(self, name: str = "darkness") -> None:
        self.name = name
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.network.weight, -1.0)
        self.network.requires_grad_(False)
        self.seen: list[tuple[tuple[int, ...], tuple[str, ...]]] = []

    def __call__(self, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        self.seen.append((tuple(frames.shape), tuple(prompts)))
        return self.network(frames.mean(dim=(1, 2, 3, 4))[:, None])[:, 0]


def config_of(**changes: object) -> RewardStageConfig:
    settings: dict[str, object] = {
        "batch_size": EIGHT,
        "rows": PerDevice(cpu=2, accelerator=2),
        "rewards": ("toybox-clip",),
    }
    return RewardStageConfig(**(settings | changes))  # type: ignore[arg-type]


def flow_of(networks: Networks, bank: LatentBank, config: RewardStageConfig, share: RowShare) -> PyramidFlowObjective:
    schedule = PyramidSchedule.from_config(debug().models.flow)
    return PyramidFlowObjective(
        networks.transformer,
        networks.text_encoder,
        bank,
        schedule,
        config,
        stage="reward",
        batch_size=8,
        seed=3,
        use_bf16=False,
        share=share,
    )


def objective_of(
    networks: Networks,
    bank: LatentBank,
    config: RewardStageConfig | None = None,
    rewards: Sequence[Darkness] | None = None,
    share: RowShare = RowShare(),  # noqa: B008 - frozen
) -> RewardObjective:
    config = config or config_of()
    return RewardObjective(
        flow_of(networks, bank, config, share),
        networks.vae,
        [Darkness()] if rewards is None else rewards,
        networks.tokenizer,
        config,
        num_rows=2,
        share=share,
    )


def gradients(objective: RewardObjective, step: int, kinds: str = "") -> dict[str, Tensor]:
    for module in objective.modules.values():
        module.zero_grad()
    for term in objective.terms(objective.batch(step), step):
        if term.kind.startswith(kinds):
            (term.weight * term.loss).backward()
    return {
        f"{name}/{key}": value.grad.clone()
        for name, module in objective.modules.items()
        for key, value in module.named_parameters()
        if value.grad is not None
    }


def test_the_reward_gradient_reaches_the_denoiser_and_nothing_else(networks: Networks, bank: LatentBank) -> None:
    objective = objective_of(networks, bank)
    assert not gradients(objective, 0, "nothing")
    found = gradients(objective, 0, "reward")
    moved = {name for name, value in found.items() if value.abs().sum() > 0}
    assert moved
    assert {name.split("/")[0] for name in moved} == {"transformer"}
    frozen = [*networks.vae.parameters(), *objective.rewards[0].network.parameters()]  # type: ignore[attr-defined]
    assert all(value.grad is None and not value.requires_grad for value in frozen)


def test_without_weight_the_stage_is_the_flow_stage_bit_for_bit(networks: Networks, bank: LatentBank) -> None:
    config = config_of(weight=0.0)
    with_rewards, alone = objective_of(networks, bank, config), flow_of(networks, bank, config, RowShare())
    for step in range(3):
        ours, theirs = with_rewards.batch(step), alone.batch(step)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        pairs = list(zip(with_rewards.terms(ours, step), alone.terms(theirs, step), strict=True))
        assert all(torch.equal(one.loss, other.loss) and one.weight == other.weight for one, other in pairs)


def test_the_flow_columns_are_those_of_the_flow_stage_at_any_weight(networks: Networks, bank: LatentBank) -> None:
    objective, alone = objective_of(networks, bank), flow_of(networks, bank, config_of(), RowShare())
    *columns, reward = objective.terms(objective.batch(1), 1)
    assert [term.loss.item() for term in columns] == [term.loss.item() for term in alone.terms(alone.batch(1), 1)]
    assert reward.weight == pytest.approx(0.1)
    assert set(reward.metrics) >= {"loss/reward", "reward/darkness"}


def test_following_the_gradient_raises_the_reward(networks: Networks, bank: LatentBank) -> None:
    objective = objective_of(networks, bank)

    def reward() -> float:
        with torch.no_grad():
            return (
                next(t for t in objective.terms(objective.batch(0), 0) if "reward" in t.kind)
                .metrics["loss/reward"]
                .item()
            )

    # What an untrained denoiser starts at gives no gradient further down, so only the last layer may move.
    before, found = reward(), gradients(objective, 0, "reward")
    with torch.no_grad():
        for name, value in networks.transformer.named_parameters():
            if f"transformer/{name}" in found:
                value -= 1.0 * found[f"transformer/{name}"]
    assert reward() < before


def test_rewards_see_the_history_and_the_unit_with_the_captions_of_their_clips(
    networks: Networks, bank: LatentBank
) -> None:
    clip, frames = Darkness("clip"), Darkness("frames")
    frames.sees = "frames"
    config = config_of(rewards=("toybox-clip", "toybox-quality"), decoded_frames=2, last_units=1)
    objective = objective_of(networks, bank, config, [clip, frames])
    assert objective.place(0) == (2, 2)
    batch = objective.batch(0)
    list(objective.terms(batch, 0))
    ratio = networks.vae.compression
    (shape, prompts), (few, _) = clip.seen[0], frames.seen[0]
    assert shape == (2, 1 + 2 * ratio.time, 3, 8 * ratio.space, 8 * ratio.space)
    assert few[:2] == (2, 2)
    words = [networks.tokenizer.decode(row, skip_special_tokens=True) for row in batch["reward_token_ids"]]
    assert list(prompts) == words
    assert all("square" in text for text in prompts)


def test_factors_weigh_the_rewards(networks: Networks, bank: LatentBank) -> None:
    config = config_of(rewards=("toybox-clip", "toybox-quality"), reward_weights=(1.0, 3.0))
    objective = objective_of(networks, bank, config, [Darkness("one"), Darkness("two")])
    *_, term = objective.terms(objective.batch(0), 0)
    expected = -(term.metrics["reward/one"] + 3 * term.metrics["reward/two"])
    torch.testing.assert_close(term.metrics["loss/reward"], expected)


@pytest.mark.parametrize("levels", ["last", "any"])
def test_an_exact_velocity_gives_back_the_clean_latents(networks: Networks, bank: LatentBank, levels: str) -> None:
    """Eq. 5 at the sigmas of the stage's own levels, whatever level and unit a step scores."""
    objective = objective_of(networks, bank, config_of(levels=levels))
    schedule, seen_levels = objective.flow.schedule, set()

    class Oracle(nn.Module):
        """Answers start point minus end point, made from the same draws."""

        def forward(self, clips, timesteps, text):  # type: ignore[no-untyped-def]
            return self.velocity

    oracle = Oracle()
    objective.flow.transformer = oracle  # type: ignore[assignment]
    latents = bank.latents[:2]
    piece = objective.draws.pieces[0]
    text = None
    for step in range(8):
        level, unit = objective.place(step)
        seen_levels.add(level)
        current = latents[:, :, unit : unit + 1]
        # Independent of `sample_path`: the velocity from two points of the path that the estimate itself walks.
        from m4v.core.generators import generator_for
        from m4v.flow.noise import standard_normal
        from m4v.flow.pyramid import latent_pyramid, noise_pyramid, upsample_nearest

        noise = standard_normal(current.shape, generator_for(objective.seed, "noise", step), "cpu")
        whole, noises = latent_pyramid(current, 3), noise_pyramid(noise, 3)
        start = noises[level]
        if level:
            sigma = schedule.start_sigma[level]
            start = sigma * start + (1 - sigma) * upsample_nearest(whole[level - 1])
        end = schedule.end_sigma[level] * noises[level] + (1 - schedule.end_sigma[level]) * whole[level]
        oracle.velocity = start - end
        estimate = objective.estimate(latents, text, level, unit, step, piece)  # type: ignore[arg-type]
        torch.testing.assert_close(estimate, whole[level], atol=2e-5, rtol=0)
    assert seen_levels == ({2} if levels == "last" else {0, 1, 2})


def test_scored_units_are_the_last_ones(networks: Networks, bank: LatentBank) -> None:
    two = objective_of(networks, bank, config_of(last_units=2))
    assert {two.place(step)[1] for step in range(40)} == {1, 2}
    eight = objective_of(networks, bank, config_of(last_units=8))
    assert {eight.place(step)[1] for step in range(40)} == {0, 1, 2}


def test_a_unit_is_decoded_as_in_the_whole_clip(networks: Networks) -> None:
    vae = networks.vae.eval()
    latents = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    with torch.no_grad():
        whole = vae.decode(vae.denormalise(latents)).clamp(-1, 1).transpose(1, 2)
    for unit in range(3):
        decoded = decode_unit(vae, latents[:, :, :unit].detach(), latents[:, :, unit : unit + 1])
        torch.testing.assert_close(decoded.clip, whole[:, : 1 + unit * vae.compression.time], atol=1e-5, rtol=1e-5)
        assert decoded.frames.shape[1] == (1 if unit == 0 else vae.compression.time)
        assert not decoded.context.requires_grad
        (gradient,) = torch.autograd.grad(decoded.frames.sum(), latents)
        assert gradient[:, :, unit].abs().sum() > 0
        assert gradient[:, :, :unit].abs().sum() == 0


def test_saturated_pixels_keep_their_gradient(networks: Networks) -> None:
    latents = (1e4 * torch.ones(1, 4, 1, 8, 8)).requires_grad_()
    decoded = decode_unit(networks.vae, latents[:, :, :0].detach(), latents)
    assert decoded.frames.abs().max() <= 1
    decoded.frames.sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0


def test_two_ranks_score_the_rows_of_one(networks: Networks, bank: LatentBank) -> None:
    alone = objective_of(networks, bank)
    *_, whole = alone.terms(alone.batch(0), 0)
    halves = []
    for rank in range(2):
        part = objective_of(networks, bank, share=RowShare(rank=rank, world=2))
        *_, term = part.terms(part.batch(0), 0)
        halves.append(term.loss.item() * term.weight)
    assert sum(halves) / 2 == pytest.approx(whole.loss.item() * whole.weight, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": ("hpsv3:/x",)}, "no reward 'hpsv3:/x'"),
        ({"rewards": ("clip:",)}, "no reward 'clip:'"),
        ({"rewards": ()}, "reward.rewards is empty"),
        ({"rewards": ("toybox-clip", "toybox-clip")}, "names one twice"),
        ({"reward_weights": (1.0, 2.0)}, "2 entries for 1 rewards"),
        ({"weight": -0.1}, "at least 0"),
        ({"last_units": 0}, "at least 1"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config_of(**changes)


def test_a_guard_without_margin_is_refused() -> None:
    with pytest.raises(UserError, match="margin"):
        RewardGuardConfig(margin=0.0)


def test_the_paper_is_the_default() -> None:
    config = replace(RewardStageConfig())
    assert (config.weight, config.last_units, config.levels, config.optim.lr) == (0.1, 8, "last", 1e-5)
