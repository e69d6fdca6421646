"""The text encoder: sizes, masks, pooling, independence of padding, and a sane start for training."""

import pytest
import torch
from transformers import T5EncoderModel

from m4v.core.errors import UserError
from m4v.models.text.config import TextEncoderConfig
from m4v.models.text.encoder import build_text_encoder, encode_ids, encode_prompts, tokenize_prompts
from m4v.models.text.tokenizer import build_tokenizer
from tests.assertions import assert_relative_close

TOKENIZER = build_tokenizer(["a", "red", "blue", "ball", "cube", "rolls", "left", "right", "the", "grass"])
PROMPTS = ["a red ball rolls left", "", "the blue cube"]


@pytest.fixture(scope="module")
def text_encoder() -> T5EncoderModel:
    torch.manual_seed(0)
    return build_text_encoder(TextEncoderConfig.debug(), len(TOKENIZER))


@pytest.mark.parametrize(("preset", "millions"), [("toybox_xs", 0.6), ("toybox_m", 1.0)])
def test_preset_sizes(preset, millions):
    with torch.device("meta"):
        text_encoder = build_text_encoder(getattr(TextEncoderConfig, preset)(), 256)
    assert sum(p.numel() for p in text_encoder.parameters()) == pytest.approx(millions * 1e6, rel=0.1)


def test_prompts_are_padded_to_a_fixed_length_with_real_tokens_first(text_encoder):
    text = encode_prompts(text_encoder, TOKENIZER, PROMPTS, 8)
    assert text.tokens.shape == (3, 8, 16)
    assert text.pooled.shape == (3, 16)
    assert text.mask.sum(dim=1).tolist() == [6, 1, 4]
    assert torch.equal(text.mask, text.mask.sort(dim=1, descending=True).values)


def test_pooled_is_the_mean_over_real_tokens(text_encoder):
    text = encode_prompts(text_encoder, TOKENIZER, PROMPTS, 8)
    expected = torch.stack([tokens[mask].mean(dim=0) for tokens, mask in zip(text.tokens, text.mask, strict=True)])
    assert_relative_close(text.pooled, expected, 1e-6)


def test_padding_does_not_move_real_tokens(text_encoder):
    short, long = (encode_prompts(text_encoder, TOKENIZER, PROMPTS, length) for length in (6, 12))
    assert_relative_close(long.tokens[:, :6][long.mask[:, :6]], short.tokens[short.mask], 1e-5)
    assert_relative_close(long.pooled, short.pooled, 1e-5)


def test_ids_and_prompts_give_the_same(text_encoder):
    ids, mask = tokenize_prompts(TOKENIZER, PROMPTS, 8)
    assert torch.equal(
        encode_ids(text_encoder, ids, mask).tokens, encode_prompts(text_encoder, TOKENIZER, PROMPTS, 8).tokens
    )


def test_training_mode_draws_no_random_numbers(text_encoder):
    text_encoder.train()
    first, again = (encode_prompts(text_encoder, TOKENIZER, PROMPTS, 8).tokens for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("preset", ["toybox_xs", "toybox_m", "debug"])
def test_outputs_start_at_order_one_and_tell_prompts_apart(preset):
    torch.manual_seed(1)
    config = getattr(TextEncoderConfig, preset)()
    text = encode_prompts(build_text_encoder(config, len(TOKENIZER)), TOKENIZER, PROMPTS, config.max_length)
    assert 0.5 < text.tokens[text.mask].std().item() < 2.0
    assert torch.pdist(text.pooled).min() > 0.5


def test_gradients_reach_every_parameter(text_encoder):
    text = encode_prompts(text_encoder, TOKENIZER, PROMPTS, 8)
    (text.tokens[text.mask].square() * torch.arange(16)).sum().backward()
    assert [name for name, p in text_encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    text_encoder.zero_grad()


def test_save_and_load_round_trip(text_encoder, tmp_path):
    text_encoder.save_pretrained(tmp_path)
    loaded = T5EncoderModel.from_pretrained(tmp_path)
    for actual, expected in zip(loaded.train().state_dict().values(), text_encoder.state_dict().values(), strict=True):
        assert torch.equal(actual, expected)
    text = encode_prompts(loaded, TOKENIZER, PROMPTS, 8)
    assert torch.equal(text.tokens, encode_prompts(text_encoder, TOKENIZER, PROMPTS, 8).tokens)


def test_bfloat16_works():
    torch.manual_seed(0)
    text_encoder = build_text_encoder(TextEncoderConfig.debug(), len(TOKENIZER))
    expected = encode_prompts(text_encoder, TOKENIZER, PROMPTS, 8)
    text = encode_prompts(text_encoder.to(torch.bfloat16), TOKENIZER, PROMPTS, 8)
    assert text.tokens.dtype == text.pooled.dtype == torch.bfloat16
    assert_relative_close(text.pooled.float(), expected.pooled, 0.05)


@pytest.mark.parametrize(
    ("fields", "message"), [({"num_layers": 0}, "num_layers is 0"), ({"max_length": 1}, "max_length is 1")]
)
def test_impossible_settings_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        TextEncoderConfig(**fields)
