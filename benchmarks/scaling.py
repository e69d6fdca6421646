"""Tokens per second of training on 1, 2, ... GPUs: `torchrun --nproc-per-node 2 benchmarks/scaling.py --json OUT`.

Measures toybox-m and a few layers of the 2B width with the training loop's own step under FSDP2, first on every rank
by itself (one GPU), then on all of them with as many rows per rank. Efficiency is tokens per second of all ranks over
ranks times that of the slowest single one. `--small` runs the same on debug networks, on CPUs too (gloo), to see that
it runs.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from m4v.analysis.denoising_memory import pyramid_inputs
from m4v.analysis.tokens import unit_layout
from m4v.core.config_io import to_plain
from m4v.core.shapes import LatentShape
from m4v.models.denoiser.config import PRESETS, DenoiserConfig
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.training.loop import LossTerm, train_step
from m4v.training.optim_config import OptimConfig
from m4v.training.parallel import Parallel, parallel_session, place_of_rank
from m4v.training.parallel_config import ParallelConfig
from m4v.training.precision import autocast, fast_kernels
from m4v.training.sharding import ShardedNetworks
from m4v.training.state import TrainState


@dataclass(frozen=True)
class Case:
    """One network and what a rank computes per step.

    Attributes:
        name: In the table.
        config: Shape of the network.
        latent: Shape of a clip's latents.
        rows: Rows per rank.
        unit: Unit that is denoised, at the finest level.
    """

    name: str
    config: DenoiserConfig
    latent: LatentShape
    rows: int
    unit: int


def cases(small: bool) -> list[Case]:
    """The networks the measurement is about."""
    if small:
        return [Case("debug", PRESETS["debug"], LatentShape(num_units=3, height=8, width=8), 2, 2)]
    wide = replace(PRESETS["pyramid-2b"], num_dual_layers=2, num_single_layers=4)
    return [
        Case("toybox-m", PRESETS["toybox-m"], LatentShape(num_units=5, height=16, width=16), 256, 4),
        Case("2B width, 2 + 4 layers", wide, LatentShape(num_units=8, height=48, width=80), 1, 7),
    ]


class Fixed:
    """An objective on inputs that never change, so that only the step is timed."""

    def __init__(self, network: M4VTransformer3DModel, case: Case, device: torch.device, use_bf16: bool) -> None:
        self.network = network
        layout = unit_layout(case.config, case.latent, case.unit, case.config.num_levels - 1, 64)
        self.inputs = pyramid_inputs(case.config, layout, case.rows, torch.float32, str(device))
        self.tokens = case.rows * (layout.num_text_tokens + layout.num_video_tokens)
        self.use_bf16 = use_bf16
        self.device = device

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {"transformer": self.network}

    def batch(self, step: int) -> dict[str, Tensor]:
        return {}

    def terms(self, batch: Mapping[str, Tensor], step: int) -> Iterator[LossTerm]:
        with autocast(self.use_bf16, self.device):
            velocity = self.network(*self.inputs)
        yield LossTerm(loss=(velocity.float() - 1).square().mean(), weight=1.0)

    def num_items(self, step: int) -> int:
        return 1

    def facts(self, step: int) -> Mapping[str, float]:
        return {}


def tokens_per_second(case: Case, parallel: Parallel, device: torch.device, num_steps: int) -> float:
    """Tokens that this rank trains on per second."""
    torch.manual_seed(0)
    network = M4VTransformer3DModel(**to_plain(case.config)).to(device).train()
    use_bf16 = device.type == "cuda"
    sharded = ShardedNetworks(parallel)
    sharded.add({"transformer": network}, in_bf16=use_bf16)
    state = TrainState({"transformer": network}, OptimConfig(), 0, sharded)
    objective = Fixed(network, case, device, use_bf16)

    def run(count: int) -> float:
        parallel.wait()
        start = time.perf_counter()
        for _ in range(count):
            train_step(objective, state, 10_000, {})
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    run(3)
    return objective.tokens * num_steps / run(num_steps)


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--replicate", action="store_true", help="whole networks on every rank instead of FSDP2")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = place_of_rank(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    config = ParallelConfig(shard=not arguments.replicate)
    rows: list[dict[str, Any]] = []
    with parallel_session(config, device) as parallel, fast_kernels(device):
        for case in cases(arguments.small):
            alone = tokens_per_second(case, Parallel(), device, arguments.steps)
            parallel.wait()
            together = tokens_per_second(case, parallel, device, arguments.steps)
            singles, shares = parallel.gather(alone), parallel.gather(together)
            rows.append(
                {
                    "case": case.name,
                    "ranks": parallel.world,
                    "sharded": parallel.is_sharded,
                    "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
                    "one_rank_tokens_per_second": min(singles),
                    "all_ranks_tokens_per_second": sum(shares),
                    "efficiency": sum(shares) / (parallel.world * min(singles)),
                }
            )
        if parallel.is_main:
            for row in rows:
                print(  # noqa: T201
                    f"{row['case']:<24} {row['ranks']} ranks: {row['all_ranks_tokens_per_second']:12,.0f} tokens/s, "
                    f"one: {row['one_rank_tokens_per_second']:12,.0f}, efficiency {100 * row['efficiency']:.1f} %"
                )
            if arguments.json:
                arguments.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
