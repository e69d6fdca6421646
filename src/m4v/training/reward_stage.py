"""The reward stage: flow matching with rewards, and looks at what an independent oracle says (Sec. 3.4, D.1)."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m4v.core.generators import generator_for
from m4v.flow.scheduler import PyramidFlowScheduler
from m4v.pipelines.m4v_pipeline import M4VPipeline
from m4v.rewards.protocol import RewardModel
from m4v.rewards.registry import load_rewards
from m4v.training.config import RunConfig
from m4v.training.exporting import generation_defaults
from m4v.training.flow_objective import PyramidFlowObjective
from m4v.training.loop import Objective
from m4v.training.metrics import MetricSink
from m4v.training.networks import Networks
from m4v.training.reward_config import RewardStageConfig
from m4v.training.reward_guard import ORACLE, SAMPLED, GuardLook
from m4v.training.reward_objective import RewardObjective
from m4v.training.reward_oracle import toybox_agreement, toybox_prompts
from m4v.training.stages import FlowStageRun

logger = logging.getLogger(__name__)

_SAMPLES_AT_ONCE = 8


class RewardStageRun(FlowStageRun):
    """Trains denoiser and text encoder by flow matching, and the denoiser by rewards of what it would draw."""

    @property
    def stage(self) -> RewardStageConfig:
        """Settings."""
        return self.bench.config.reward

    def run(self, sink: MetricSink) -> str | None:
        """Train what is left, looking at the model once before the first step."""
        self._sink = sink
        return super().run(sink)

    def prepare(self) -> None:
        """Hold latents, captions and rewards on the device; look at where the stage starts."""
        super().prepare()
        self.rewards = load_rewards(self.stage.rewards, self.bench.device)
        self._warn_of_other_worlds()
        guard = self.stage.guard
        self.held_out = load_rewards(guard.held_out, self.bench.device)
        self.has_rules = guard.oracle == "toybox" and self.bench.config.data.is_rendered
        self.num_looked_at = guard.num_samples.on(self.bench.device.type)
        if not self.has_rules and not self.held_out:
            self.num_looked_at = 0
            logger.warning(
                "Nothing independent judges these data, so reward hacking would go unseen. Name a reward model that is "
                "not trained on in reward.guard.held_out."
            )
        if self.state.step == 0 and self.num_looked_at:
            self.look_and_log(self._sink)

    def make_objective(self, use_bf16: bool) -> Objective:
        """Match flows, and score rows beside them."""
        flow = super().make_objective(use_bf16)
        assert isinstance(flow, PyramidFlowObjective)
        networks = self.bench.networks
        return RewardObjective(
            flow,
            networks.vae,
            self.rewards,
            networks.tokenizer,
            self.stage,
            num_rows=self.stage.rows.on(self.bench.device.type),
            share=self.bench.parallel.share,
        )

    def look(self, folder: Path) -> dict[str, float]:
        """Sample the fixed prompts; make the guard's videos, score them and compare with the start of the stage."""
        measured = super().look(folder)
        if not self.num_looked_at:
            return measured
        guard, config = self.stage.guard, self.bench.config
        prompts = self.guard_prompts()
        clips = make_clips(config, self.bench.networks, prompts, self.bench.device)
        values = {
            SAMPLED + reward.name: mean_reward(reward, clips, prompts, self.bench.device) for reward in self.rewards
        }
        values |= {
            f"{ORACLE}{reward.name}": mean_reward(reward, clips, prompts, self.bench.device) for reward in self.held_out
        }
        if self.has_rules:
            agreement = toybox_agreement(clips, prompts, config.data.tier)
            values |= {ORACLE + axis: value for axis, value in agreement.items()}
        if not any(name.startswith(ORACLE) for name in values):
            logger.warning("No prompt of the reward guard says anything that its oracle judges: %s", prompts[:3])
            return measured | values
        factors = dict(zip((reward.name for reward in self.rewards), self.stage.factors, strict=True))
        seen = GuardLook.from_values(values, factors, self.bench.stage_facts.get(self.name, {}))
        if seen.is_hacked(guard.margin):
            logger.warning("%s", seen.describe())
            if guard.on_hacking == "stop":
                self.bench.stop.request("the reward guard saw reward hacking")
        return measured | values | seen.to_log()

    def _warn_of_other_worlds(self) -> None:
        data = self.bench.config.data
        for reward in self.rewards:
            tier = getattr(reward, "tier", None)
            if tier is not None and (not data.is_rendered or data.tier != tier):
                seen = f"the toybox tier {data.tier}" if data.is_rendered else "your own videos"
                logger.warning(
                    "%s was trained on the toybox tier %s and means little on %s. Name other models in reward.rewards, "
                    "or train it on that tier with benchmarks/toybox_reward_models.py.", reward.name, tier, seen,
                )  # fmt: skip

    def guard_prompts(self) -> tuple[str, ...]:
        """What the guard's videos show."""
        if self.stage.guard.prompts:
            prompts = self.stage.guard.prompts
        elif self.has_rules:
            prompts = toybox_prompts(self.bench.config.data.tier, self.num_looked_at)
        else:
            prompts = tuple(self.prompts)
        return tuple(prompts[number % len(prompts)] for number in range(self.num_looked_at))


def make_clips(
    config: RunConfig, networks: Networks, prompts: tuple[str, ...], device: torch.device
) -> list[np.ndarray]:
    """Make one video per prompt, uint8 `t h w 3`; video number i has the same noise at every look.

    Raises:
        UserError: if the pipeline cannot take a prompt.
    """
    pipeline = M4VPipeline(
        transformer=networks.transformer,
        vae=networks.vae,
        text_encoder=networks.text_encoder,
        tokenizer=networks.tokenizer,
        scheduler=PyramidFlowScheduler.from_flow_config(config.models.flow),
        defaults=generation_defaults(config),
    )
    pipeline.set_progress_bar_config(disable=True)
    clips: list[np.ndarray] = []
    for first in range(0, len(prompts), _SAMPLES_AT_ONCE):
        batch = list(prompts[first : first + _SAMPLES_AT_ONCE])
        generators = [generator_for(config.seed, "reward guard", first + number) for number in range(len(batch))]
        made: Any = pipeline(batch, generator=generators, output_type="np")
        clips += list(made.frames)
    return clips


@torch.no_grad()
def mean_reward(reward: RewardModel, clips: list[np.ndarray], prompts: tuple[str, ...], device: torch.device) -> float:
    """Mean reward of finished videos, over all of their frames."""
    values = []
    for clip, prompt in zip(clips, prompts, strict=True):
        frames = torch.from_numpy(clip).to(device).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)
        values.append(reward(frames[None], [prompt]))
    return float(torch.cat(values).mean())
