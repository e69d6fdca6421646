"""Descriptions: sizes of published networks, sums of their parts, and what offloading leaves on the device."""

from dataclasses import replace

import pytest
import torch

from m4v.analysis.description import describe
from m4v.analysis.parameters import denoiser_parameters
from m4v.analysis.part_memory import PartMemory, cast_weights, part_memory, peaks
from m4v.analysis.subject_folders import subject_of_folder
from m4v.analysis.subjects import SUBJECTS
from m4v.analysis.text_memory import meta_text_encoder
from m4v.checkpoints.bundled import bundled_models
from m4v.core.shapes import LatentShape
from m4v.models.denoiser.pyramid import M4VTransformer3DModel


@pytest.mark.parametrize(
    ("name", "count"),
    [("pyramid-2b", 1_972_059_200), ("wan-1.3b", 1_418_996_800), ("wan-14b", 14_288_491_584)],
)
def test_parameters_of_public_denoisers(name: str, count: int) -> None:
    config = replace(SUBJECTS[name].denoiser, mixer_plan="attention-only")
    counts = denoiser_parameters(config)
    assert counts["total"] == count
    assert sum(value for key, value in counts.items() if key != "total") == count


@pytest.mark.parametrize(
    ("name", "part", "count"),
    [
        ("pyramid-2b", "text_encoder", 123_060_480),  # CLIP-L
        ("pyramid-2b", "text_encoder_2", 4_762_310_656),  # T5-XXL
        ("wan-14b", "text_encoder", 5_680_910_336),  # UMT5-XXL
    ],
)
def test_parameters_of_public_text_encoders(name: str, part: str, count: int) -> None:
    encoder = meta_text_encoder(SUBJECTS[name].text_encoders[part], torch.bfloat16)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == count


@pytest.mark.parametrize("name", ["toybox-xs", "wan-1.3b"])
def test_a_description_adds_up(name: str) -> None:
    subject, latent = SUBJECTS[name], LatentShape(num_units=5, height=8, width=8)
    description = describe(subject, latent, dtype="bfloat16")
    assert description.parameters["total"] == sum(list(description.parameters.values())[1:])
    assert all(len(row) == len(costs) for row, costs in zip(description.tokens, description.flops, strict=True))
    assert 0 < description.video_flops["mixers"] < description.video_flops["total"]
    memory = description.memory_bytes
    assert set(memory["parts"]) == {"transformer", "vae", *subject.text_encoders}
    assert memory["weights"] == memory["parts"]["transformer"]["weights"]
    assert memory["activations"] == memory["parts"]["transformer"]["activations"]
    assert list(memory["peak"]) == ["none", "model", "sequential"]
    untiled = [peak["untiled"] for peak in memory["peak"].values()]
    assert untiled == sorted(untiled, reverse=True)


def test_a_whole_video_is_the_sum_of_its_calls() -> None:
    subject, latent = SUBJECTS["toybox-xs"], LatentShape(num_units=2, height=8, width=8)
    description = describe(subject, latent, dtype="float32")
    first, later = description.flops
    assert description.video_flops["total"] == 2 * (20 * sum(first) + 10 * sum(later))
    wan = describe(SUBJECTS["wan-1.3b"], LatentShape(num_units=2, height=8, width=8), dtype="float32")
    assert wan.video_flops["total"] == 2 * 50 * wan.flops[0][0]
    assert wan.tokens == [[2 * 4 * 4]]


def test_without_guidance_a_video_costs_half() -> None:
    subject, latent = SUBJECTS["toybox-xs"], LatentShape(num_units=2, height=8, width=8)
    plain = replace(subject, defaults=replace(subject.defaults, first_guidance=0.0, later_guidance=1.0))
    guided, unguided = describe(subject, latent, dtype="float32"), describe(plain, latent, dtype="float32")
    assert guided.video_flops["total"] == 2 * unguided.video_flops["total"]
    assert unguided.memory_bytes["activations"] < guided.memory_bytes["activations"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_those_of_the_loaded_network(dtype: str) -> None:
    """Some parameters of the scans stay in float32, and are counted so."""
    folder = bundled_models()["toybox-xs"]
    subject, latent = subject_of_folder(folder), LatentShape(num_units=1, height=8, width=8)
    network = M4VTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=getattr(torch, dtype))
    loaded = sum(parameter.nbytes for parameter in network.parameters())
    assert describe(subject, latent, dtype=dtype).memory_bytes["weights"] == loaded


def test_text_encoders_keep_their_wide_matrices_for_float16_only() -> None:
    spec = SUBJECTS["toybox-xs"].text_encoders["text_encoder"]
    sizes = {
        dtype: part_memory(meta_text_encoder(spec, dtype), 0).weights
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    }
    assert sizes[torch.bfloat16] * 2 == sizes[torch.float32]
    assert sizes[torch.bfloat16] < sizes[torch.float16] < sizes[torch.float32]


def test_the_largest_layer_counts_its_own_parameters_only() -> None:
    network = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))
    )
    memory = part_memory(network, activations=7)
    assert memory.largest_layer == 4 * (64 + 8)
    assert memory.weights == 4 * (40 + 72 + 18)
    assert memory.tiled_activations == 7
    cast_weights(network, torch.bfloat16)
    assert part_memory(network, 7).weights == 2 * (40 + 72 + 18)


def test_peaks_by_offload_level() -> None:
    parts = {
        "transformer": PartMemory(weights=50, largest_layer=5, activations=20, tiled_activations=20),
        "vae": PartMemory(weights=10, largest_layer=2, activations=90, tiled_activations=15),
        "text_encoder": PartMemory(weights=80, largest_layer=30, activations=1, tiled_activations=1),
    }
    assert peaks(parts) == {
        "none": {"untiled": 140 + 90, "tiled": 140 + 20},
        "model": {"untiled": 100, "tiled": 81},
        "sequential": {"untiled": 92, "tiled": 31},
    }
