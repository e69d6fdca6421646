"""Model folders as something to describe."""

from dataclasses import replace
from pathlib import Path

import pytest

from m4v.analysis.description import describe
from m4v.analysis.subject_folders import subject_of_folder
from m4v.checkpoints.bundled import bundled_models
from m4v.core.errors import UserError
from m4v.core.shapes import LatentShape
from m4v.models.denoiser.config import PRESETS
from m4v.pipelines.m4v_pipeline import M4VPipeline
from tests.pipelines.debug_parts import DEFAULTS, two_encoder_parts


def test_a_bundled_model_is_what_its_files_say() -> None:
    subject = subject_of_folder(bundled_models()["toybox-xs"])
    # Chunks of the scan are a matter of speed, and may differ from those of the size.
    assert replace(subject.denoiser, mixer=PRESETS["toybox-xs"].mixer) == PRESETS["toybox-xs"]
    assert (subject.compression.time, subject.compression.space) == (4, 8)
    assert subject.defaults.first_steps == (4, 4, 4)
    assert [spec.num_tokens for spec in subject.text_encoders.values()] == [32]


def test_two_text_encoders_are_both_counted(tmp_path: Path) -> None:
    pipeline = M4VPipeline(**two_encoder_parts(), defaults=replace(DEFAULTS, max_text_length=128))
    pipeline.save_pretrained(tmp_path / "model")
    subject = subject_of_folder(tmp_path / "model")
    assert {name: spec.num_tokens for name, spec in subject.text_encoders.items()} == {
        "text_encoder": 77,  # CLIP has its own length
        "text_encoder_2": 128,
    }
    parts = describe(subject, LatentShape(num_units=1, height=8, width=8), dtype="float32").memory_bytes["parts"]
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        weights = sum(parameter.nbytes for parameter in getattr(pipeline, name).parameters())
        assert parts[name]["weights"] == weights
        assert 0 < parts[name]["largest_layer"] < weights


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model_index\.json"):
        subject_of_folder(tmp_path)
