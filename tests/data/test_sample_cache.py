"""A cache on disk: every sample says what it was made from, and is never used when that has changed."""

import itertools
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from m4v.core.errors import UserError
from m4v.core.shapes import VideoShape
from m4v.data.cache.manifest import CacheIdentity, SampleCache
from m4v.data.cache.sample import read_facts, sample_path, stack_text
from m4v.data.cache.writer import WrittenCache, write_cache
from m4v.data.folder_source import FolderSource
from m4v.data.pixels import to_pixels
from m4v.media.video import write_video
from tests.data.folders import make_dataset, numbered_frames

IDENTITY = CacheIdentity(
    vae="mean of squares",
    vae_hash="v1",
    encoder="letters",
    encoder_hash="e1",
    decoder="d1",
    fps="8",
    request="16x16, 9 frames",
    precision="fp32",
)


def encode(video: Tensor) -> Tensor:
    """Every 8th pixel of every 4th frame, as three channels."""
    return video[:, :, ::4, ::8, ::8]


def letters(captions: tuple[str, ...]) -> dict[str, Tensor]:
    longest = max(1, *(len(caption) for caption in captions))
    ids = torch.tensor([[ord(letter) for letter in caption.ljust(longest)] for caption in captions])
    return {"token_ids": ids, "token_mask": ids != ord(" ")}


def source_of(root: Path, **changes: object) -> FolderSource:
    settings = {
        "shape": VideoShape(num_frames=9, height=16, width=16),
        "fps": 8.0,
        "time_compression": 4,
        "kind": "video",
        **changes,
    }
    return FolderSource(root, **settings)


def fill(root: Path, folder: Path, identity: CacheIdentity = IDENTITY) -> WrittenCache:
    return write_cache(folder, source_of(root), identity, encode_fn=encode, text_fn=letters)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    dataset = make_dataset(tmp_path)
    (dataset / "still.png").unlink()
    metadata = dataset / "metadata.jsonl"
    metadata.write_text("".join(line for line in metadata.read_text().splitlines(keepends=True) if "still" not in line))
    return dataset


def test_a_sample_holds_what_encoding_now_gives(root: Path, tmp_path: Path) -> None:
    written = fill(root, tmp_path / "cache")
    assert (written.num_written, written.num_reused) == (3, 0)
    cache = SampleCache.open(tmp_path / "cache")
    source = source_of(root)
    for index in range(3):
        sample = cache.sample(index)
        frames = torch.from_numpy(source.clip(index).frames[None])
        assert sample.latent.dtype == torch.bfloat16
        assert torch.equal(sample.latent, encode(to_pixels(frames))[0].bfloat16())
        assert sample.captions == source.clip(index).captions
        assert torch.equal(sample.text["token_ids"], letters(sample.captions)["token_ids"])
    facts = read_facts(sample_path(cache.folder, "videos/a.mp4"))
    assert facts["bucket"] == "16x16x9"
    assert facts["crop"] == "0,0,32,32"
    assert facts["vae_hash"] == "v1"
    assert torch.equal(cache.empty_prompt()["token_ids"], torch.tensor([[32]]))
    latents, captions = cache.latents(["videos/c.mp4", "videos/a.mp4"])
    assert torch.equal(latents[1], cache.sample(0).latent)
    assert captions == [("video c",), ("video a",)]


def test_nothing_is_encoded_twice_and_an_interrupted_cache_goes_on(root: Path, tmp_path: Path) -> None:
    calls = itertools.count()

    def dies(video: Tensor) -> Tensor:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return encode(video)

    with pytest.raises(KeyboardInterrupt):
        write_cache(tmp_path / "cache", source_of(root), IDENTITY, encode_fn=dies, text_fn=letters)
    with pytest.raises(UserError, match="no finished cache"):
        SampleCache.open(tmp_path / "cache")
    written = fill(root, tmp_path / "cache")
    assert (written.num_written, written.num_reused, written.outdated) == (1, 2, {})
    assert fill(root, tmp_path / "cache").num_reused == 3


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("vae_hash", "another autoencoder"),
        ("encoder_hash", "another text encoder"),
        ("decoder", "another decoder of videos"),
        ("fps", "another size or rate"),
        ("request", "another size or rate"),
        ("precision", "another precision"),
    ],
)
def test_another_network_or_setting_makes_every_sample_anew_and_says_why(
    root: Path, tmp_path: Path, field: str, reason: str
) -> None:
    fill(root, tmp_path / "cache")
    written = fill(root, tmp_path / "cache", replace(IDENTITY, **{field: "other"}))
    assert (written.num_written, written.num_reused, written.outdated) == (3, 0, {reason: 3})


def test_the_place_of_the_same_network_does_not_matter(root: Path, tmp_path: Path) -> None:
    fill(root, tmp_path / "cache")
    assert fill(root, tmp_path / "cache", replace(IDENTITY, vae="moved", encoder="moved")).num_reused == 3


def test_a_changed_caption_or_file_is_encoded_again_and_the_rest_kept(root: Path, tmp_path: Path) -> None:
    fill(root, tmp_path / "cache")
    metadata = root / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("video c", "video C"))
    write_video(root / "videos" / "a.mp4", numbered_frames(9)[::-1], fps=8)
    os.utime(root / "videos" / "b.mp4", ns=(1, 1))  # touched, not changed
    written = fill(root, tmp_path / "cache")
    assert (written.num_written, written.num_reused) == (2, 1)
    assert written.outdated == {"changed file": 1, "changed caption": 1}
    assert written.cache.sample(2).captions == ("video C",)


def test_a_file_changed_without_changing_size_is_found(root: Path, tmp_path: Path) -> None:
    fill(root, tmp_path / "cache")
    video = root / "videos" / "b.mp4"
    content = bytearray(video.read_bytes())
    content[-20] ^= 1
    video.write_bytes(content)
    with pytest.raises(UserError, match=r"1 changed \(videos/b\.mp4\)"):
        SampleCache.open(tmp_path / "cache").check_data()


def test_a_data_set_that_changed_is_refused_by_the_names_of_its_files(root: Path, tmp_path: Path) -> None:
    fill(root, tmp_path / "cache")
    cache = SampleCache.open(tmp_path / "cache")
    assert cache.check_data() is None
    metadata = root / "metadata.jsonl"
    rows = metadata.read_text().splitlines()
    (root / "videos" / "new.mp4").write_bytes((root / "videos" / "a.mp4").read_bytes())
    metadata.write_text("\n".join([*rows[1:], '{"path": "videos/new.mp4", "caption": "new"}']))
    with pytest.raises(UserError, match=r"1 gone \(videos/a\.mp4\); 1 new \(videos/new\.mp4\)"):
        cache.check_data()
    written = fill(root, tmp_path / "cache")
    assert (written.num_written, written.num_reused, written.num_forgotten) == (1, 2, 1)
    assert SampleCache.open(tmp_path / "cache").check_data() is None


def test_a_cache_without_its_data_set_says_that_it_is_not_checked(root: Path, tmp_path: Path) -> None:
    fill(root, tmp_path / "cache")
    root.rename(tmp_path / "moved")
    assert "is not here" in (SampleCache.open(tmp_path / "cache").check_data() or "")


def test_damaged_files_are_counted_once_and_not_taken_for_new(root: Path, tmp_path: Path) -> None:
    video = root / "videos" / "b.mp4"
    video.write_bytes(video.read_bytes()[:700])
    written = fill(root, tmp_path / "cache")
    assert [(drop.reason, drop.source) for drop in written.drops] == [("unreadable file", "videos/b.mp4")]
    assert SampleCache.open(tmp_path / "cache").check_data() is None


def test_a_damaged_sample_is_made_again_and_never_read(root: Path, tmp_path: Path) -> None:
    cache = fill(root, tmp_path / "cache").cache
    path = sample_path(cache.folder, "videos/a.mp4")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="cannot be read"):
        cache.sample(0)
    assert fill(root, tmp_path / "cache").num_written == 1
    assert cache.sample(0).captions == ("video a",)


def test_another_autoencoder_at_training_is_refused(root: Path, tmp_path: Path) -> None:
    cache = fill(root, tmp_path / "cache").cache
    cache.check_encoders("v1", "e1")
    with pytest.raises(UserError, match="another autoencoder"):
        cache.check_encoders("v2")
    with pytest.raises(UserError, match="another text encoder"):
        cache.check_encoders("v1", "e2")


def test_clips_of_several_lengths_or_not_there_are_refused_with_counts(root: Path, tmp_path: Path) -> None:
    shape = VideoShape(num_frames=17, height=16, width=16)
    write_cache(tmp_path / "c", source_of(root, shape=shape), IDENTITY, encode_fn=encode, text_fn=letters)
    cache = SampleCache.open(tmp_path / "c")
    with pytest.raises(UserError, match=r"1 x \(3, 3, 2, 2\), 2 x \(3, 5, 2, 2\)"):
        cache.latents()
    with pytest.raises(UserError, match=r"lacks 1 of 2 clips \(none\.mp4\)"):
        cache.latents(["videos/a.mp4", "none.mp4"])


def test_stacked_texts_are_padded_with_masked_rows() -> None:
    joined = stack_text([letters(("ab",)), letters(("c", "defg"))])
    assert joined["token_ids"].shape == (3, 4)
    assert joined["token_mask"].sum(dim=1).tolist() == [2, 1, 4]
