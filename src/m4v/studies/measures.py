"""What a trained model is compared by: loss on clips it never saw, drift over the units of a video, toybox scores."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from m4v.core.devices import choose_device
from m4v.core.seeds import fold_seed
from m4v.data.toybox_source import ToyboxSource
from m4v.evaluation.toybox_benchmark import benchmark_prompts, run_benchmark
from m4v.flow.schedule import PyramidSchedule
from m4v.models.text.tokenizer import build_tokenizer
from m4v.pipelines.m4v_pipeline import M4VPipeline
from m4v.toybox.captions import VOCABULARY
from m4v.toybox.oracles.judge import judge
from m4v.toybox.renderer import render
from m4v.training.config import RunConfig
from m4v.training.flow_config import FlowStageConfig
from m4v.training.flow_objective import PyramidFlowObjective
from m4v.training.latent_bank import load_or_build_bank
from m4v.training.networks import build_networks, load_networks
from m4v.training.optim_config import PerDevice
from m4v.training.progress import OnProgress

_WORST_PSNR = 100.0
"""dB of identical pictures, which would otherwise be infinite."""


@torch.no_grad()
def held_out_loss(
    model: Path,
    config: RunConfig,
    *,
    num_clips: int,
    num_batches: int,
    batch_size: int,
    cache: Path,
    device: str,
    on_progress: OnProgress,
) -> dict[str, float]:
    """Flow loss on toybox clips of a seed that no training uses, with clean history; the same draws for every model.

    Args:
        model: Exported model folder.
        config: Data and sizes of its run.
        num_clips: Clips.
        num_batches: Batches; each has one column per level.
        batch_size: Items per batch, a multiple of the levels.
        cache: Folder for encoded clips.
        device: Where it is computed.
        on_progress: Told about clips encoded.

    Returns:
        Mean `loss`, and means by level and unit under the names that metrics have.
    """
    place = choose_device(device)
    networks = load_networks(model, build_networks(config.models, build_tokenizer(VOCABULARY), 0)).to(place)
    for module in networks.modules.values():
        module.requires_grad_(False).eval()
    data = config.data
    seed = fold_seed(0, "held-out clips of studies")
    source = ToyboxSource(data.tier, split=data.split, seed=seed, num_clips=num_clips, num_frames=data.num_frames)
    bank = load_or_build_bank(
        cache,
        lambda: source,
        networks,
        identity={"study": True, "tier": data.tier, "clips": num_clips, "frames": data.num_frames},
        max_text_length=config.models.text.max_length,
        use_bf16=False,
        num_threads=data.num_threads or 1,
        on_progress=on_progress,
    ).to(place)
    levels = config.models.flow.num_levels
    stage = FlowStageConfig(
        batch_size=PerDevice(cpu=batch_size, accelerator=batch_size),
        images_per_window=0,
        columns=(1,) * levels,
        corruption=0.0,
        text_drop=0.0,
    )
    objective = PyramidFlowObjective(
        networks.transformer,
        networks.text_encoder,
        bank,
        PyramidSchedule.from_config(config.models.flow),
        stage,
        stage="t2v",
        batch_size=batch_size,
        seed=seed,
        use_bf16=False,
    )
    sums: dict[str, list[float]] = defaultdict(list)
    for step in range(num_batches):
        for term in objective.terms(objective.batch(step), step):
            sums["loss"].append(float(term.loss))
            for name, value in term.metrics.items():
                sums[name].append(float(value))
    return {name: float(np.mean(values)) for name, values in sorted(sums.items())}


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How a video changes from unit to unit when its first frame is given; means over prompts.

    Attributes:
        psnr: dB against the true continuation, whose motion the prompt tells; one entry per unit.
        background_psnr: dB of pixels that the object never covers against the first frame, where a static camera leaves
            them as they were: pure accumulated error.
        oracle: Share of prompts whose object and colour the judge still sees in the unit alone.
    """

    psnr: tuple[float, ...]
    background_psnr: tuple[float, ...]
    oracle: tuple[float, ...]

    def to_json(self) -> dict[str, list[float]]:
        """Return JSON types."""
        return {name: [round(value, 4) for value in values] for name, values in vars(self).items()}


def measure_drift(model: Path, tier: str, *, num_prompts: int, seed: int, device: str) -> Drift:
    """Continue the first frame of rendered scenes and follow the units.

    Args:
        model: Exported model folder.
        tier: World with a static camera.
        num_prompts: Prompts, a fixed mixed choice of the seen ones.
        seed: Of the noise.
        device: Where videos are made.
    """
    pipeline: Any = M4VPipeline.from_pretrained(model)
    pipeline.to(choose_device(device))
    pipeline.set_progress_bar_config(disable=True)
    num_frames = pipeline.generation_defaults.num_frames
    units = unit_frames(num_frames, pipeline.vae.dataclass_config.compression.time)
    rows: dict[str, list[list[float]]] = {"psnr": [], "background_psnr": [], "oracle": []}
    for number, prompt in enumerate(benchmark_prompts(tier, num_prompts)["seen"]):
        truth = render(prompt.scene)
        frames = truth.frames[:num_frames]
        made = pipeline(prompt.text, image=frames[0], seed=fold_seed(seed, "drift", number)).frames[0]
        still = np.asarray(~(truth.object_ids[:num_frames] > 0).any(axis=0))
        rows["psnr"].append([_psnr(made[unit], frames[unit]) for unit in units])
        rows["background_psnr"].append(
            [_psnr(made[unit], np.broadcast_to(frames[0], frames[unit].shape), still) for unit in units]
        )
        item = prompt.scene.objects[0]
        verdicts = [judge(np.ascontiguousarray(made[unit]), tier) for unit in units]
        rows["oracle"].append([float(seen.object == item.kind and seen.colour == item.colour) for seen in verdicts])
    return Drift(**{name: tuple(np.mean(values, axis=0).tolist()) for name, values in rows.items()})


def unit_frames(num_frames: int, time_compression: int) -> list[slice]:
    """Frames of every unit: the first stands alone, each later unit is one latent frame."""
    starts = range(1, num_frames, time_compression)
    return [slice(0, 1), *(slice(start, start + time_compression) for start in starts)]


def _psnr(
    frames: UInt8[np.ndarray, "t h w 3"],
    truth: UInt8[np.ndarray, "t h w 3"],
    where: Bool[np.ndarray, "h w"] | None = None,
) -> float:
    error = (frames.astype(np.float64) - truth) ** 2
    mean = error.mean() if where is None else error[:, where].mean()
    return _WORST_PSNR if mean == 0 else float(10 * np.log10(255.0**2 / mean))


def toybox_scores(model: Path, tier: str, *, num_prompts: int, seed: int, device: str) -> dict[str, Any]:
    """Judge videos of the fixed prompts: what `m4v evaluate toybox` reports of `seen` and `held_out`."""
    pipeline: Any = M4VPipeline.from_pretrained(model)
    pipeline.to(choose_device(device))
    pipeline.set_progress_bar_config(disable=True)
    report = run_benchmark(pipeline, tier, seed=seed, limit=num_prompts).to_json()
    return {name: report[name] for name in ("seen", "held_out")}
