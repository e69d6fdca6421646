"""The pipeline with CLIP and T5: what reaches the denoiser, notes on prompts, folders, and parts that are missing."""

import logging
from dataclasses import replace

import pytest
import torch

from m4v.core.errors import UserError
from m4v.pipelines.m4v_pipeline import M4VPipeline
from tests.pipelines.debug_parts import DEFAULTS, debug_parts, two_encoder_parts

LONG = replace(DEFAULTS, max_text_length=128, prompt_suffix=", hyper quality", negative_prompt="blurry", num_frames=1)
TEXT_PARTS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


@pytest.fixture(scope="module")
def pipeline():
    made = M4VPipeline(**two_encoder_parts(), defaults=LONG)
    made.set_progress_bar_config(disable=True)
    return made


def latents(pipeline, prompt="a ball", **options):
    return pipeline(prompt, output_type="latent", seed=0, **options).frames


def record_text(pipeline):
    """Watch the conditioning that the denoiser gets."""
    seen = []
    handle = pipeline.transformer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    return seen, handle


def test_the_denoiser_sees_negative_then_positive_with_the_suffix_on_the_positive_only(pipeline):
    seen, handle = record_text(pipeline)
    latents(pipeline)
    handle.remove()
    texts = ["blurry", "a ball, hyper quality"]
    clip_ids = pipeline.tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
    t5 = pipeline.tokenizer_2(texts, padding="max_length", max_length=128, return_tensors="pt")
    with torch.no_grad():
        pooled = pipeline.text_encoder(input_ids=clip_ids).pooler_output
        tokens = pipeline.text_encoder_2(**t5).last_hidden_state
    assert torch.equal(seen[0].pooled, pooled)
    assert torch.allclose(seen[0].tokens, tokens, atol=1e-6)
    assert torch.equal(seen[0].mask, t5["attention_mask"].bool())


def test_both_encoders_matter(pipeline):
    base = latents(pipeline, guidance_scale=1)
    for part in ("text_encoder", "text_encoder_2"):
        other = M4VPipeline(**pipeline.components | {part: two_encoder_parts(seed=1)[part]}, defaults=LONG)
        other.set_progress_bar_config(disable=True)
        assert not torch.allclose(latents(other, guidance_scale=1), base, atol=1e-6)


def test_what_each_encoder_cuts_is_named_and_no_word_is_unknown(pipeline, caplog):
    letters = "x" * 70
    with caplog.at_level(logging.WARNING):
        latents(pipeline, f"{letters} giraffe zebra {letters} end")
    assert [record.getMessage() for record in caplog.records] == [
        f"The prompt is longer than 128 tokens; cut off: {letters} end hyper quality",
        f"The prompt's summary covers its first 77 tokens only; not: giraffe zebra {letters} end hyper quality",
    ]


def test_save_load_generate_is_the_same_video(pipeline, tmp_path, caplog):
    pipeline.save_pretrained(tmp_path / "model")
    with caplog.at_level(logging.WARNING):
        loaded = M4VPipeline.from_pretrained(tmp_path / "model")
    assert not caplog.records
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(latents(loaded), latents(pipeline))


def test_clip_weights_with_the_prefix_of_older_transformers_are_accepted(pipeline, tmp_path):
    from safetensors.torch import load_file, save_file

    pipeline.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{name}": tensor for name, tensor in load_file(file).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(tensors, file, metadata={"format": "pt"})
    loaded = M4VPipeline.from_pretrained(tmp_path / "model")
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(latents(loaded), latents(pipeline))


@pytest.mark.parametrize("missing", TEXT_PARTS)
def test_a_missing_part_is_named_with_the_way_to_add_it(pipeline, missing):
    poorer = M4VPipeline(**pipeline.components | {missing: None}, defaults=LONG)
    if missing == "text_encoder_2":
        message = "has no text_encoder_2"
    else:
        message = f"has no {missing}, so it cannot read prompts.*from_pretrained\\(\\.\\.\\., {missing}="
    with pytest.raises(UserError, match=message):
        poorer.stream("a ball")


def test_a_folder_may_lack_text_parts_and_take_them_from_the_caller(pipeline, tmp_path):
    lacking = M4VPipeline(**pipeline.components | dict.fromkeys(TEXT_PARTS), defaults=LONG)
    lacking.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "text_encoder").exists()
    opened = M4VPipeline.from_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="has no text_encoder,"):
        opened.stream("a ball")
    whole = M4VPipeline.from_pretrained(tmp_path / "model", **{name: pipeline.components[name] for name in TEXT_PARTS})
    whole.set_progress_bar_config(disable=True)
    assert torch.equal(latents(whole), latents(pipeline))


@pytest.mark.parametrize(
    ("field", "partner"),
    [("text_dim", "text_encoder_2's d_model is 16"), ("pooled_text_dim", "text_encoder's hidden_size is 12")],
)
def test_encoders_of_another_width_are_refused(field, partner):
    parts = two_encoder_parts()
    parts["transformer"].register_to_config(**{field: 99})
    with pytest.raises(UserError, match=f"{field} is 99, but the {partner}"):
        M4VPipeline(**parts)


def test_two_encoders_of_one_kind_are_refused(pipeline):
    twice = M4VPipeline(**pipeline.components | {"text_encoder": pipeline.text_encoder_2}, defaults=LONG)
    with pytest.raises(UserError, match="text_encoder is a T5EncoderModel beside text_encoder_2"):
        twice.stream("a ball")


def test_one_encoder_models_need_no_second_one():
    pipeline = M4VPipeline(**debug_parts(), defaults=DEFAULTS)
    assert pipeline.text_encoder_2 is None
    assert pipeline.config["text_encoder_2"] == (None, None)
