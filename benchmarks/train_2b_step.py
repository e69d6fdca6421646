"""One real training step of pyramid-2b at 384p, 57 frames, on one GPU: `python benchmarks/train_2b_step.py --json OUT`.

Weights, gradients, AdamW moments and moving average in float32, autocast in bf16, all blocks recomputed, no sharding;
the last unit at the finest level, which is the longest column of a batch. Prints seconds, and the peak of device memory
beside what `m4v.analysis.training_cost` predicts. `--small` runs it at debug size, on a CPU too (no measured peak).
"""

import argparse
import json
import time
from pathlib import Path

import torch

from m4v.analysis.denoising_memory import pyramid_inputs
from m4v.analysis.tokens import unit_layout
from m4v.analysis.training_cost import pyramid_saved_bytes, state_bytes, with_checkpoints
from m4v.core.config_io import to_plain
from m4v.core.devices import choose_device
from m4v.core.shapes import LatentShape
from m4v.models.denoiser.config import PRESETS
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.parameters import count_parameters
from m4v.training.optim_config import OptimConfig
from m4v.training.precision import autocast, fast_kernels
from m4v.training.sharding import blocks_of, clip_gradients, recompute_activations
from m4v.training.state import TrainState

_GIB = 2**30


def main() -> None:
    """Predict, train two steps, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--share", type=float, default=1.0, help="share of blocks computed again")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = choose_device("auto")
    config = PRESETS["debug" if arguments.small else "pyramid-2b"]
    latent = LatentShape(num_units=3, height=8, width=8) if arguments.small else LatentShape(8, 48, 80)
    layout = unit_layout(config, latent, latent.num_units - 1, config.num_levels - 1, 128)

    torch.manual_seed(0)
    with torch.device(device):
        network = M4VTransformer3DModel(**to_plain(config)).train()
    blocks = len(blocks_of(network))
    saved = pyramid_saved_bytes(config, layout, 1)
    predicted = state_bytes(count_parameters(network)) + with_checkpoints(saved, arguments.share, blocks)
    recompute_activations(network, arguments.share)
    state = TrainState({"transformer": network}, OptimConfig(), 0)
    inputs = pyramid_inputs(config, layout, 1, torch.float32, str(device))
    use_bf16 = device.type == "cuda"
    seconds: list[float] = []
    loss = torch.zeros(())
    with fast_kernels(device):
        for _ in range(2):
            if use_bf16:
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            with autocast(use_bf16, device):
                velocity = network(*inputs)
            loss = (velocity.float() - 1).square().mean()
            loss.backward()
            clip_gradients(state.parameters, state.config.clip_norm)
            state.optimizer.step()
            state.zero_gradients()
            state.ema.update(state.step)
            state.step += 1
            del velocity
            if use_bf16:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if use_bf16 else None
    report = {
        "tokens": layout.num_text_tokens + layout.num_video_tokens,
        "parameters": count_parameters(network),
        "checkpoint_share": arguments.share,
        "first_step_seconds": seconds[0],
        "step_seconds": seconds[-1],
        "loss": loss.item(),
        "predicted_bytes": predicted,
        "peak_bytes": peak,
        "predicted_over_peak": None if peak is None else predicted / peak,
        "device": torch.cuda.get_device_name(device) if use_bf16 else device.type,
    }
    measured = "not measured on a CPU" if peak is None else f"{peak / _GIB:.2f} GiB ({100 * predicted / peak:.1f} %)"
    print(  # noqa: T201
        f"{report['tokens']} tokens, {seconds[-1]:.2f} s a step; predicted {predicted / _GIB:.2f} GiB, peak {measured}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
