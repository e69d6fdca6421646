"""Training from a cache takes the batches that training from the files takes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from m4v.checkpoints.model_folder import read_model_index
from m4v.checkpoints.run_folder import RunFolder
from m4v.core.errors import UserError
from m4v.core.shapes import VideoShape
from m4v.data.cache.manifest import CacheIdentity, SampleCache, describe_request
from m4v.data.cache.writer import write_cache
from m4v.data.folder_source import FolderSource
from m4v.training.bank_draws import BankDraws
from m4v.training.cache_encoders import open_encoders, vae_hash, weights_hash
from m4v.training.config import RunConfig
from m4v.training.stopping import StopSignal
from m4v.training.workbench import Workbench
from tests.pipelines.debug_parts import debug_pipeline, two_encoder_parts
from tests.pipelines.wan_parts import wan_pipeline
from tests.training.conftest import NUM_FRAMES, SIZE

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    debug_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cache(model: Path, video_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> SampleCache:
    return make_cache(model, video_folder, tmp_path_factory.mktemp("cache"))


def make_cache(model: Path, videos: Path, folder: Path) -> SampleCache:
    encoders = open_encoders(model, device=CPU, use_bf16=False)
    shape = VideoShape(num_frames=NUM_FRAMES, height=SIZE, width=SIZE)
    time = encoders.compression.time
    source = FolderSource(videos, shape=shape, fps=8.0, time_compression=time, min_frames=NUM_FRAMES)
    identity = CacheIdentity(
        vae="vae",
        vae_hash=encoders.vae_hash,
        encoder="tokens",
        encoder_hash=encoders.encoder_hash,
        decoder="d",
        fps="8",
        request=describe_request(shape, NUM_FRAMES, time),
        precision="fp32",
    )
    return write_cache(folder, source, identity, encode_fn=encoders.encode, text_fn=encoders.encode_text).cache


def open_bench(config: RunConfig, folder: Path, model: Path | None) -> tuple[Workbench, list[str]]:
    said: list[str] = []
    run_folder = RunFolder(folder)
    folder.mkdir(parents=True)
    bench = Workbench(
        config,
        run_folder,
        CPU,
        stop=StopSignal(None),
        on_progress=lambda progress: said.append(progress.message or ""),
        init_from=model,
        is_resumed=False,
    )
    return bench, said


def with_cache(config: RunConfig, cache: SampleCache) -> RunConfig:
    return replace(config, data=replace(config.data, cache=str(cache.folder)))


def test_batches_from_the_cache_are_those_from_the_files(
    tiny_run: RunConfig, model: Path, cache: SampleCache, tmp_path: Path
) -> None:
    files, _ = open_bench(tiny_run, tmp_path / "files", model)
    cached, said = open_bench(with_cache(tiny_run, cache), tmp_path / "cached", model)
    settings = {"images_per_window": 1, "videos_per_window": 8, "text_drop": 0.2}
    first = BankDraws(files.bank(), 3, 4, **settings)
    second = BankDraws(cached.bank(), 3, 4, **settings)
    assert any("from the cache" in line for line in said)
    for step in range(12):
        one, other = first.batch(step), second.batch(step)
        assert torch.equal(one["token_ids"], other["token_ids"])
        assert torch.equal(one["token_mask"], other["token_mask"])
        # Clips are encoded alone for the cache and several at a time for the run: up to one rounding to bf16 apart.
        torch.testing.assert_close(one["latents"], other["latents"], rtol=2**-7, atol=2**-7)
        assert (one["latents"] == other["latents"]).float().mean() > 0.99


def test_a_cache_of_another_autoencoder_size_or_data_set_stops_the_run(
    tiny_run: RunConfig, model: Path, cache: SampleCache, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    debug_pipeline(seed=1).save_pretrained(other)
    with pytest.raises(UserError, match="another autoencoder"):
        open_bench(with_cache(tiny_run, cache), tmp_path / "a", other)[0].bank()
    faster = replace(tiny_run, data=replace(tiny_run.data, fps=4.0, num_frames=5))
    with pytest.raises(UserError, match=r"9-9 frames .* at 8 fps, but .* 5-5 frames .* at 4 fps are wanted"):
        open_bench(with_cache(faster, cache), tmp_path / "b", model)[0].bank()
    rendered = replace(with_cache(tiny_run, cache).data, source="toybox", tier="xs", height=SIZE, width=SIZE)
    with pytest.raises(UserError, match="serves runs that read one folder"):
        open_bench(replace(tiny_run, data=rendered), tmp_path / "c", model)[0].bank()


def test_hashes_follow_weights_and_statistics_and_nothing_else(model: Path) -> None:
    vae = debug_pipeline().vae
    assert vae_hash(vae) == open_encoders(model, device=CPU, use_bf16=False).vae_hash
    assert vae_hash(debug_pipeline(seed=1).vae) != vae_hash(vae)
    before = vae_hash(vae)
    vae.set_latent_statistics(replace(vae.latent_statistics, video_shift=0.123))
    assert vae_hash(vae) != before
    encoder = debug_pipeline().text_encoder
    before = weights_hash(encoder)
    with torch.no_grad():
        next(encoder.parameters()).view(-1)[3] += 1e-3
    assert weights_hash(encoder) != before


def test_frozen_text_encoders_are_stored_as_embeddings_of_the_pipeline(tmp_path: Path) -> None:
    from m4v.pipelines.m4v_pipeline import M4VPipeline
    from m4v.pipelines.prompt_encoding import prompt_encoder
    from tests.pipelines.debug_parts import DEFAULTS

    pipeline = M4VPipeline(**two_encoder_parts(), defaults=DEFAULTS)
    pipeline.save_pretrained(tmp_path / "two")
    encoders = open_encoders(tmp_path / "two", device=CPU, use_bf16=False)
    assert encoders.text_kind == "embeddings"
    text = encoders.encode_text(("a red ball", ""))
    length = read_model_index(tmp_path / "two")["defaults"]["max_text_length"]
    with torch.no_grad():
        expected = prompt_encoder(pipeline).encode(["a red ball", ""], length, CPU)
    num_rows = text["text"].shape[1]
    assert torch.equal(text["text_mask"], expected.mask[:, :num_rows])
    assert not expected.mask[:, num_rows:].any()
    tokens = (expected.tokens * expected.mask[..., None])[:, :num_rows]
    torch.testing.assert_close(text["text"].float(), tokens, rtol=2**-7, atol=1e-3)
    torch.testing.assert_close(text["pooled"].float(), expected.pooled, rtol=2**-7, atol=1e-3)


def test_wan_latents_are_normalised_by_its_own_statistics(tmp_path: Path, video_folder: Path) -> None:
    pipeline = wan_pipeline()
    pipeline.save_pretrained(tmp_path / "wan")
    encoders = open_encoders(tmp_path / "wan", device=CPU, use_bf16=False)
    assert encoders.text_kind == "embeddings"
    video = torch.rand(1, 3, 5, 32, 48) * 2 - 1
    mean = torch.tensor(pipeline.vae.config.latents_mean).view(1, -1, 1, 1, 1)
    deviation = torch.tensor(pipeline.vae.config.latents_std).view(1, -1, 1, 1, 1)
    with torch.no_grad():
        raw = pipeline.vae.encode(video).latent_dist.mode()
    torch.testing.assert_close(encoders.encode(video), (raw - mean) / deviation)
    assert encoders.encode_text(("a ball",))["text"].shape[0] == 1
