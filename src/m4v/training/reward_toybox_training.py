"""Training of the toybox reward models on procedurally rendered clips: minutes on one CPU core (Sec. 3.4)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from m4v.core.generators import generator_for
from m4v.core.seeds import fold_seed
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.rewards.corruptions import CORRUPTIONS
from m4v.rewards.toybox_networks import (
    ToyboxClipConfig,
    ToyboxClipNetwork,
    ToyboxQualityConfig,
    ToyboxQualityNetwork,
    looked_at,
)
from m4v.rewards.toybox_rewards import caption_tokenizer, save_network, tokenize_captions
from m4v.toybox.captions import VOCABULARY
from m4v.toybox.clip import make_clip
from m4v.toybox.records import Scene
from m4v.training.config import OptimConfig
from m4v.training.lr_schedule import lr_at
from m4v.training.progress import OnProgress, Pace, Progress, ignore_progress

_HELD_OUT_SEED = 1_000_003
_AXES = ("colour", "object", "motion", "ground")


@dataclass(frozen=True, kw_only=True)
class ToyboxRewardTraining:
    """How the toybox reward models are trained.

    Attributes:
        tier: World size.
        num_clips: Clips rendered for training.
        num_test_clips: Clips of the split `iid` that accuracy is measured on.
        num_coded: Training clips that go through the autoencoder, whole and damaged.
        clip_steps: Optimiser steps of the caption-video encoder.
        quality_steps: Optimiser steps of the quality judge.
        batch_size: Clips per step.
        lr: Peak learning rate of AdamW.
        seed: Root of every random draw.
    """

    tier: str = "xs"
    num_clips: int = 2500
    num_test_clips: int = 256
    num_coded: int = 256
    clip_steps: int = 500
    quality_steps: int = 350
    batch_size: int = 48
    lr: float = 2e-3
    seed: int = 7


@dataclass(frozen=True)
class _Renders:
    frames: Tensor  # uint8, n t 3 h w
    captions: tuple[tuple[str, ...], ...]
    scenes: tuple[Scene, ...]


def train_toybox_rewards(
    target: Path,
    vae: CausalVideoVAE,
    config: ToyboxRewardTraining = ToyboxRewardTraining(),
    on_progress: OnProgress = ignore_progress,
) -> dict[str, dict[str, float]]:
    """Train both models and write their folders `toybox-clip` and `toybox-quality`.

    Args:
        target: Folder of the two folders.
        vae: Its round trips count as clean and its damaged latents as damaged, since no denoiser can do better.
        config: Sizes and steps.
        on_progress: Told what happens.

    Returns:
        What was measured on held-out renders, per model.
    """
    clips = _render(config, "train", config.seed, config.num_clips, on_progress)
    test = _render(config, "iid", _HELD_OUT_SEED, config.num_test_clips, on_progress)
    clip_config, quality_config = ToyboxClipConfig(words=tuple(VOCABULARY)), ToyboxQualityConfig()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold_seed(config.seed, "toybox rewards"))
        tokenizer = caption_tokenizer(clip_config)
        encoder = ToyboxClipNetwork(clip_config, len(tokenizer))
        judge = ToyboxQualityNetwork(quality_config)
    _train_encoder(encoder, tokenizer, clips, config, on_progress)
    facts = {"toybox-clip": measure_encoder(encoder, tokenizer, test.frames, test.captions, test.scenes)}
    save_network(target / "toybox-clip", encoder, clip_config, config.tier, facts["toybox-clip"])
    coded, coded_test = _coded(vae, clips, config.num_coded, config.seed), _coded(vae, test, 64, config.seed + 1)
    _train_judge(judge, clips.frames, coded, config, on_progress)
    facts["toybox-quality"] = measure_judge(judge, test.frames, coded_test)
    save_network(target / "toybox-quality", judge, quality_config, config.tier, facts["toybox-quality"])
    return facts


def _render(config: ToyboxRewardTraining, split: str, seed: int, count: int, on_progress: OnProgress) -> _Renders:
    pace, made = Pace(0, count), []
    for index in range(count):
        made.append(make_clip(config.tier, split, seed, index))
        if index % 100 == 99:
            left = pace.seconds_left(index + 1)
            on_progress(Progress(phase=f"render {split}", done=index + 1, total=count, seconds_left=left))
    frames = torch.from_numpy(np.stack([clip.frames for clip in made])).permute(0, 1, 4, 2, 3).contiguous()
    return _Renders(frames, tuple(clip.captions.texts for clip in made), tuple(clip.scene for clip in made))


def _pixels(frames: Tensor) -> Tensor:
    return frames.float().div(127.5).sub(1.0)


def _optimise(
    network: nn.Module, steps: int, config: ToyboxRewardTraining, loss_of: Callable[[int], Tensor], phase: str,
    on_progress: OnProgress,
) -> None:  # fmt: skip
    optim = OptimConfig(lr=config.lr, warmup_steps=50, hold_share=0.3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=0.02)
    pace = Pace(0, steps)
    network.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, steps, optim)
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 49:
            values = {"loss": loss.item()}
            left = pace.seconds_left(step + 1)
            on_progress(Progress(phase=phase, done=step + 1, total=steps, seconds_left=left, values=values))
    network.eval()


def _length(step: int, num_frames: int, seed: int) -> int:
    """Draw how much of the clips is seen: half of the time all of it, else any length that an autoencoder gives."""
    generator = generator_for(seed, "length", step)
    if torch.rand((), generator=generator) < 0.5:
        return num_frames
    return 1 + 4 * int(torch.randint(0, (num_frames - 1) // 4 + 1, (), generator=generator))


def _train_encoder(
    network: ToyboxClipNetwork, tokenizer: Any, clips: _Renders, config: ToyboxRewardTraining, on_progress: OnProgress
) -> None:
    num_clips, num_frames = clips.frames.shape[:2]

    def loss_of(step: int) -> Tensor:
        generator = generator_for(config.seed, "encoder", step)
        rows = torch.randint(num_clips, (config.batch_size,), generator=generator)
        picks = torch.randint(2, (config.batch_size,), generator=generator).tolist()
        captions = [clips.captions[row][pick] for row, pick in zip(rows.tolist(), picks, strict=True)]
        frames = _pixels(clips.frames[rows, : _length(step, num_frames, config.seed)])
        frames = _lightly_damaged(frames, generator)
        ids, mask = tokenize_captions(tokenizer, captions)
        logits = network(looked_at(frames), ids, mask)
        # Equal captions are no contrast: all of their clips are right answers.
        same = torch.tensor([[float(one == other) for other in captions] for one in captions])
        target = same / same.sum(dim=1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target.T)) / 2

    _optimise(network, config.clip_steps, config, loss_of, "toybox-clip", on_progress)


def _lightly_damaged(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Blur or grain half of the batches, so that the encoder reads what one denoising step gives."""
    chance = float(torch.rand((), generator=generator))
    if chance < 0.25:
        return CORRUPTIONS["blur"](frames, generator)
    return CORRUPTIONS["noise"](frames, generator) if chance < 0.5 else frames


def _train_judge(
    network: ToyboxQualityNetwork,
    frames: Tensor,
    coded: tuple[Tensor, Tensor],
    config: ToyboxRewardTraining,
    on_progress: OnProgress,
) -> None:
    names, half = list(CORRUPTIONS), config.batch_size // 2
    trips, damaged = coded

    def loss_of(step: int) -> Tensor:
        generator = generator_for(config.seed, "judge", step)
        length = _length(step, frames.shape[1], config.seed + 1)
        rows = torch.randint(len(frames), (half,), generator=generator)
        coded_rows = torch.randint(len(trips), (half // 2,), generator=generator)
        clean = torch.cat([_pixels(frames[rows[: half // 2], :length]), _pixels(trips[coded_rows, :length])])
        kind = int(torch.randint(len(names), (), generator=generator))
        bad = torch.cat(
            [
                CORRUPTIONS[names[kind]](clean[torch.randperm(half, generator=generator)[: half // 2]], generator),
                _pixels(damaged[coded_rows, :length]),
            ]
        )
        is_shuffled_picture = names[kind] == "shuffle" and length == 1
        logits = network(looked_at(torch.cat([clean, bad])))
        # Smoothed answers keep the judge's slope where it is sure.
        target = torch.cat([torch.full((half,), 0.95), torch.full((half,), 0.05)])
        if is_shuffled_picture:
            target[half : half + half // 2] = 0.95
        return F.binary_cross_entropy_with_logits(logits, target)

    _optimise(network, config.quality_steps, config, loss_of, "toybox-quality", on_progress)


@torch.no_grad()
def _coded(vae: CausalVideoVAE, clips: _Renders, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Round trips of the first clips, and of their latents after damage: noise, blur, or another clip's mixed in."""
    trips: list[Tensor] = []
    damaged: list[Tensor] = []
    count = min(count, len(clips.frames))
    for start in range(0, count, 16):
        video = _pixels(clips.frames[start : min(start + 16, count)]).transpose(1, 2)
        latents = vae.normalise(vae.encode(video).mode())
        generator = generator_for(seed, "latents", start)
        strength = torch.rand((), generator=generator)
        kind = (start // 16) % 3
        if kind == 0:
            bad = latents + (0.1 + 0.7 * strength) * torch.randn(latents.shape, generator=generator)
        elif kind == 1:
            soft = F.avg_pool3d(latents, (1, 3, 3), stride=1, padding=(0, 1, 1), count_include_pad=False)
            bad = torch.lerp(latents, soft, 0.3 + 0.7 * strength)
        else:
            bad = torch.lerp(latents, latents.roll(1, dims=0), 0.2 + 0.3 * strength)
        for place, source in ((trips, latents), (damaged, bad)):
            decoded = vae.decode(vae.denormalise(source)).transpose(1, 2)
            place.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    return torch.cat(trips), torch.cat(damaged)


@torch.no_grad()
def measure_encoder(
    network: ToyboxClipNetwork,
    tokenizer: Any,
    frames: Tensor,
    captions: Sequence[Sequence[str]],
    scenes: Sequence[Scene],
) -> dict[str, float]:
    """Accuracy of the caption-video encoder on held-out clips.

    Returns:
        `retrieval@1` and `retrieval@5`: share of clips whose own long caption is the nearest, or among the nearest
        five, of all; `<axis>`: share of clips whose nearest foreign caption speaks of the same colour, object, motion
        or ground, where both of the nearest caption's scene and its own are known.
    """
    long = [group[-1] for group in captions]
    ids, mask = tokenize_captions(tokenizer, long)
    logits = torch.cat([network(looked_at(_pixels(part)), ids, mask) for part in frames.split(32)])
    own = logits.diagonal()[:, None]
    rank = (logits > own).sum(dim=1)
    facts = {
        "retrieval@1": float((rank < 1).float().mean()),
        "retrieval@5": float((rank < 5).float().mean()),
        "clips": float(len(long)),
    }
    said = [_attributes(scene) for scene in scenes]
    nearest = logits.argmax(dim=1).tolist()
    for axis in _AXES:
        hits = [said[row][axis] == said[best][axis] for row, best in enumerate(nearest)]
        facts[axis] = float(np.mean(hits))
    return {name: round(value, 4) for name, value in facts.items()}


def _attributes(scene: Scene) -> dict[str, str]:
    item = scene.objects[0]
    return {"colour": item.colour, "object": item.kind, "motion": item.motions[0].name, "ground": scene.ground}


@torch.no_grad()
def measure_judge(network: ToyboxQualityNetwork, frames: Tensor, coded: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Area under the ROC curve of the judge on held-out clips, per kind of damage; round trips count as clean."""
    clean = torch.cat([_pixels(frames[:128]), _pixels(coded[0])])
    good = _in_parts(network, clean)
    generator = generator_for(0, "measure judge")
    facts = {
        name: area_under_curve(
            good, _in_parts(network, torch.cat([change(part, generator) for part in clean.split(32)]))
        )
        for name, change in CORRUPTIONS.items()
    }
    facts["latents"] = area_under_curve(good, _in_parts(network, _pixels(coded[1])))
    facts["mean"] = sum(facts.values()) / len(facts)
    return {f"auc {name}": round(value, 4) for name, value in facts.items()} | {"clips": float(len(clean))}


def _in_parts(network: ToyboxQualityNetwork, frames: Tensor) -> Float[Tensor, " n"]:
    return torch.cat([network(looked_at(part)) for part in frames.split(32)])


def area_under_curve(good: Float[Tensor, " n"], bad: Float[Tensor, " m"]) -> float:
    """Chance that a clean clip scores above a damaged one; ties count one half."""
    above = (good[:, None] > bad).float() + 0.5 * (good[:, None] == bad).float()
    return float(above.mean())
