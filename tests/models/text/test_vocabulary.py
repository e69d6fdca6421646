"""Words added to a word-level tokenizer and encoder leave what was known as it was."""

import torch

from m4v.models.text.config import TextEncoderConfig
from m4v.models.text.encoder import build_text_encoder, encode_prompts
from m4v.models.text.tokenizer import build_tokenizer, unknown_words
from m4v.models.text.vocabulary import (
    NewWords,
    fit_vocabulary,
    grow_tokenizer,
    merge_new_words,
    new_words,
    train_new_words,
    word_embeddings,
)

KNOWN = ["a", "red", "ball", ","]


def test_new_words_are_counted_once_per_caption_as_the_tokenizer_spells_them():
    captions = ["A Zork, a zork!", "red zork-wave", "a ball _ 3d", "café"]
    counts = new_words(build_tokenizer(KNOWN), captions)
    assert counts == {"zork": 2, "wave": 1, "3d": 1, "café": 1}


def test_a_grown_tokenizer_knows_the_words_and_keeps_every_id():
    before = build_tokenizer(KNOWN)
    after = grow_tokenizer(before, ["zork", "café"])
    assert after("a red ball, a ball")["input_ids"] == before("a red ball, a ball")["input_ids"]
    assert unknown_words(before, "a Zork café") == ["Zork", "café"]
    assert unknown_words(after, "a Zork café") == []
    assert len(after) == len(before) + 2


def test_known_prompts_mean_the_same_after_growing_and_new_rows_are_like_the_old():
    before = build_tokenizer(KNOWN)
    encoder = build_text_encoder(TextEncoderConfig.debug(), len(before)).eval()
    expected = encode_prompts(encoder, before, ["a red ball"], 8).tokens
    after = grow_tokenizer(before, [f"w{number}" for number in range(200)])
    drawn = torch.get_rng_state()
    assert fit_vocabulary(encoder, after, seed=1) == len(before)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(encode_prompts(encoder, after, ["a red ball"], 8).tokens, expected)
    table = encoder.get_input_embeddings().weight.detach()
    old, new = table[: len(before)], table[len(before) :]
    assert (new.mean(0) - old.mean(0)).abs().max() < 0.5 * old.std()
    assert 0.7 < new.std() / old.std() < 1.3
    assert fit_vocabulary(encoder, after, seed=2) == len(after)
    assert torch.equal(encoder.get_input_embeddings().weight, table)


def test_only_rows_of_new_words_get_gradients_and_merging_keeps_what_they_say():
    tokenizer = grow_tokenizer(build_tokenizer(KNOWN), ["zork"])
    encoder = build_text_encoder(TextEncoderConfig.debug(), len(tokenizer)).eval()
    expected = encode_prompts(encoder, tokenizer, ["a zork"], 8).tokens.detach()
    words = train_new_words(encoder, len(tokenizer) - 1)
    tokens = encode_prompts(encoder, tokenizer, ["a zork"], 8).tokens
    torch.testing.assert_close(tokens.detach(), expected)
    tokens.square().sum().backward()
    assert {name for name, value in encoder.named_parameters() if value.grad is not None} == {
        "encoder.embed_tokens.rows"
    }
    assert words.rows.grad is not None
    assert words.rows.grad.abs().max() > 0
    with torch.no_grad():
        words.rows += 1
    merged = merge_new_words(encoder)
    assert not isinstance(merged.encoder.embed_tokens, NewWords)
    found, wanted = (encode_prompts(each, tokenizer, ["a zork"], 8).tokens for each in (merged, encoder))
    torch.testing.assert_close(found, wanted)
    assert word_embeddings(words, tokenizer).keys() == {"zork"}
