"""Peak device memory of the large networks against `m4v describe`'s estimates: `python benchmarks/peak_memory.py`.

Needs a CUDA device. Weights are random, sizes those of the released models; a case that does not fit is reported and
passed over. `--small` runs the same code on small networks, to see that it runs.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan

from m4v.analysis.decoding_memory import causal_vae, causal_vae_decoding, wan_vae, wan_vae_decoding
from m4v.analysis.denoising_memory import pyramid_activations, pyramid_inputs, wan_activations
from m4v.analysis.part_memory import cast_weights
from m4v.analysis.tokens import unit_layout
from m4v.analysis.wan_flops import wan_grid
from m4v.core.config_io import to_plain
from m4v.core.shapes import Compression, LatentShape, VideoShape
from m4v.models.denoiser.config import PRESETS
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.denoiser.wan import WanM4VTransformer3DModel
from m4v.models.denoiser.wan_config import PRESETS as WAN_PRESETS
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.models.vae.config import CausalVideoVAEConfig

BF16 = torch.bfloat16


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        name: What is called, at which size.
        estimate: Bytes that `m4v describe` would print.
        prepare: Makes the network and its inputs on the device; returns the call.
    """

    name: str
    estimate: int
    prepare: Callable[[], Callable[[], Any]]


def cases(small: bool) -> Iterator[Case]:
    """All measurements; estimates are made as the case is reached."""
    size, video = (
        ("debug", VideoShape(num_frames=9, height=64, width=96))
        if small
        else (
            "pyramid-2b",
            VideoShape(num_frames=121, height=768, width=1280),
        )
    )
    space = 8
    for plan in ("attention-only", "full"):
        config = replace(PRESETS[size], mixer_plan=plan)
        latent = Compression(time=4 if small else 8, space=space).latent_shape(video)
        layout = unit_layout(config, latent, latent.num_units - 1, config.num_levels - 1, 128)
        estimate = pyramid_activations(config, layout, batch_size=2, dtype=BF16)

        def prepare(config: Any = config, layout: Any = layout) -> Callable[[], Any]:
            network = on_device(lambda: M4VTransformer3DModel(**to_plain(config)), BF16)
            return lambda: network(*pyramid_inputs(config, layout, 2, BF16, "cuda"))

        yield Case(f"{size} {plan}, {video}, last unit, two rows", estimate, prepare)

    config = CausalVideoVAEConfig.debug() if small else CausalVideoVAEConfig.pyramid_flow()
    latent = config.compression.latent_shape(video)
    decoding = causal_vae_decoding(causal_vae(config, BF16), latent, tile_size=64 if small else 256)
    for tile, estimate in ((None, decoding.untiled), (64 if small else 256, decoding.tiled)):

        def prepare(config: Any = config, tile: Any = tile, latent: Any = latent) -> Callable[[], Any]:
            vae = on_device(lambda: CausalVideoVAE.build(config), BF16)
            if tile is not None:
                vae.enable_tiling(tile, 1)
                return lambda: vae.decode(random_latents(vae.config["latent_channels"], latent, BF16))
            return lambda: decode_by_unit(vae, random_latents(vae.config["latent_channels"], latent, BF16))

        yield Case(f"causal VAE decoding, {video}, {'tiled' if tile else 'untiled'}", estimate, prepare)

    name, clip = (
        ("wan-debug", VideoShape(num_frames=9, height=64, width=96))
        if small
        else (
            "wan-1.3b",
            VideoShape(num_frames=81, height=480, width=832),
        )
    )
    latent = Compression(time=4, space=8).latent_shape(clip)
    for plan in ("attention-only", "full"):
        settings = replace(WAN_PRESETS[name], mixer_plan=plan)
        grid = wan_grid(settings, latent)
        estimate = wan_activations(settings, grid, num_text_tokens=512, dtype=BF16)

        def prepare(settings: Any = settings, latent: Any = latent) -> Callable[[], Any]:
            network = on_device(lambda: WanM4VTransformer3DModel(**to_plain(settings)), BF16)
            text = torch.randn(1, 512, settings.text_dim, dtype=BF16, device="cuda")
            timestep = torch.full((1,), 500.0, device="cuda")
            return lambda: network(random_latents(settings.in_channels, latent, BF16), timestep, text)

        yield Case(f"{name} {plan}, {clip}", estimate, prepare)

    arguments = {"base_dim": 8, "num_res_blocks": 1} if small else {}
    decoding = wan_vae_decoding(wan_vae(arguments), latent, tile_size=64 if small else 256)
    for tiled, estimate in ((False, decoding.untiled), (True, decoding.tiled)):

        def prepare(tiled: bool = tiled, latent: Any = latent) -> Callable[[], Any]:
            vae = on_device(lambda: AutoencoderKLWan(**arguments), torch.float32)
            if tiled:
                vae.enable_tiling(*((64, 64, 48, 48) if small else ()))
            return lambda: vae.decode(random_latents(16, latent, torch.float32), return_dict=False)

        yield Case(f"Wan VAE decoding, {clip}, {'tiled' if tiled else 'untiled'}", estimate, prepare)


def on_device(build: Callable[[], Any], dtype: torch.dtype) -> Any:
    """Make a network on the device with random weights, in its precision."""
    with torch.device("cuda"):
        network = build()
    cast_weights(network, dtype)
    return network.eval()


def random_latents(channels: int, latent: LatentShape, dtype: torch.dtype) -> torch.Tensor:
    """One clip of latents."""
    return torch.randn(1, channels, latent.num_units, latent.height, latent.width, dtype=dtype, device="cuda")


def decode_by_unit(vae: CausalVideoVAE, latents: torch.Tensor) -> None:
    """Decode as the pipeline does without tiles: unit by unit, pixels leaving the device."""
    state = None
    for unit in latents.split(1, dim=2):
        _, state = vae.decode_chunk(unit, state)


@torch.no_grad()
def measure(case: Case) -> dict[str, Any]:
    """Run a case twice; the second run, whose tables and plans are there already, is what counts."""
    row: dict[str, Any] = {"case": case.name, "estimate_bytes": case.estimate}
    try:
        call = case.prepare()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            call()
            torch.cuda.synchronize()
            row["seconds"] = time.perf_counter() - start
        row["peak_bytes"] = torch.cuda.max_memory_allocated() - before
        row["estimate_over_peak"] = case.estimate / row["peak_bytes"]
    except torch.OutOfMemoryError as error:
        row["failed"] = str(error).splitlines()[0]
    return row


def main() -> None:
    """Measure every case, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="small networks only")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    rows = []
    for case in cases(arguments.small):
        rows.append(measure(case))
        print(json.dumps(rows[-1]), flush=True)  # noqa: T201
        gc.collect()
        torch.cuda.empty_cache()
    report = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    for row in rows:
        peak = f"{row['peak_bytes'] / 2**30:7.2f} GiB" if "peak_bytes" in row else row["failed"][:40]
        ratio = f"{row['estimate_over_peak']:5.2f}" if "peak_bytes" in row else ""
        print(f"{row['case']:<70} {row['estimate_bytes'] / 2**30:7.2f} GiB  {peak}  {ratio}")  # noqa: T201


if __name__ == "__main__":
    main()
