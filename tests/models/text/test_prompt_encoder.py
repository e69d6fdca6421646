"""CLIP and T5 together: what transformers computes when called by hand, with Pyramid-Flow's lengths and masks."""

import pytest
import torch

from m4v.models.text.prompt_encoder import PooledEncoder, PromptEncoder
from m4v.models.text.tokenizer import cut_words, is_word_level, unknown_words
from tests.models.text.debug_encoders import CLIP_DIM, T5_DIM, clip_tokenizer, t5_tokenizer, text_parts

PROMPTS = ["a ball rolls, hyper quality", "", "a" * 60 + " ball" * 90]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parts():
    return text_parts()


@pytest.fixture(scope="module")
def encoder(parts):
    pooled = PooledEncoder(parts["text_encoder"], parts["tokenizer"])
    return PromptEncoder(parts["text_encoder_2"], parts["tokenizer_2"], pooled)


@pytest.fixture(scope="module")
def text(encoder):
    with torch.no_grad():
        return encoder.encode(PROMPTS, 128, CPU)


def test_tokens_are_t5s_last_hidden_state_of_128_tokens_with_the_mask_passed_and_returned(parts, text):
    ids = torch.zeros(3, 128, dtype=torch.long)  # 0 = padding
    mask = torch.zeros(3, 128, dtype=torch.long)
    for row, prompt in enumerate(PROMPTS):
        real = [*parts["tokenizer_2"](prompt, add_special_tokens=False, verbose=False)["input_ids"][:127], 1]
        ids[row, : len(real)], mask[row, : len(real)] = torch.tensor(real), 1
    with torch.no_grad():
        expected = parts["text_encoder_2"](input_ids=ids, attention_mask=mask).last_hidden_state
        unmasked = parts["text_encoder_2"](input_ids=ids).last_hidden_state
    assert text.tokens.shape == (3, 128, T5_DIM)
    assert torch.equal(text.tokens, expected)
    assert not torch.allclose(text.tokens[0], unmasked[0])
    assert torch.equal(text.mask, mask.bool())
    assert text.mask.sum(dim=1).tolist() == [len(parts["tokenizer_2"](PROMPTS[0])["input_ids"]), 1, 128]


def test_pooled_is_clips_pooler_output_of_77_tokens_without_a_mask(parts, text):
    ids = torch.ones(3, 77, dtype=torch.long)  # 1 = end mark, which also pads
    for row, prompt in enumerate(PROMPTS):
        real = [0, *parts["tokenizer"](prompt, add_special_tokens=False, verbose=False)["input_ids"][:75], 1]
        ids[row, : len(real)] = torch.tensor(real)
    with torch.no_grad():
        states = parts["text_encoder"](input_ids=ids).last_hidden_state
    first_end = (ids == 1).int().argmax(dim=1)
    assert text.pooled.shape == (3, CLIP_DIM)
    assert torch.equal(text.pooled, states[torch.arange(3), first_end])
    assert first_end[2] == 76


def test_the_pooled_limit_is_the_smaller_of_tokenizer_and_network(encoder):
    assert encoder.pooled.max_length == 77
    unlimited = clip_tokenizer()
    unlimited.model_max_length = 10**30
    assert PooledEncoder(encoder.pooled.encoder, unlimited).max_length == 77


def test_without_clip_the_pooled_vector_is_the_mean_over_real_tokens(parts):
    with torch.no_grad():
        text = PromptEncoder(parts["text_encoder_2"], parts["tokenizer_2"]).encode(PROMPTS, 16, CPU)
    rows = zip(text.tokens, text.mask, strict=True)
    expected = torch.stack([tokens[mask].mean(dim=0) for tokens, mask in rows])
    assert torch.allclose(text.pooled, expected, atol=1e-6)


@pytest.mark.parametrize("make", [clip_tokenizer, t5_tokenizer])
def test_tokenizers_of_pieces_know_every_word(make):
    tokenizer = make()
    assert not is_word_level(tokenizer)
    assert unknown_words(tokenizer, "a giraffe Ω") == []


@pytest.mark.parametrize(("make", "marks"), [(clip_tokenizer, 2), (t5_tokenizer, 1)])
def test_words_cut_from_pieces_are_named_whole(make, marks):
    tokenizer = make()
    prompt = "ball ball, giraffe ball-ball zoo"
    length = len(tokenizer(prompt)["input_ids"])
    assert cut_words(tokenizer, prompt, length) == []
    assert cut_words(tokenizer, prompt, length - 1) == ["zoo"]
    last = len(tokenizer("ball ball, gir", add_special_tokens=False)["input_ids"])
    assert cut_words(tokenizer, prompt, last + marks) == ["giraffe", "ball-ball", "zoo"]
    kept = len(tokenizer("ball ball, giraffe", add_special_tokens=False)["input_ids"])
    assert cut_words(tokenizer, prompt, kept + marks) == ["ball-ball", "zoo"]
