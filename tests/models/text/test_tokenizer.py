"""The word-level tokenizer: ids, end mark, truncation, round trip, and what it reports about a prompt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from m4v.core.errors import UserError
from m4v.models.text.tokenizer import build_tokenizer, cut_words, unknown_words

WORDS = ("a", "red", "ball", "rolls", "left", ",", "the", "then", "cube")
TOKENIZER = build_tokenizer(WORDS)


def test_special_tokens_come_first_and_words_keep_their_order():
    assert TOKENIZER.convert_tokens_to_ids(["<pad>", "</s>", "<unk>", *WORDS]) == list(range(3 + len(WORDS)))
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id, TOKENIZER.unk_token_id) == (0, 1, 2)
    assert len(TOKENIZER) == 3 + len(WORDS)


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("a red ball", [3, 4, 5, 1]),
        ("  A RED\n\tBall  ", [3, 4, 5, 1]),
        ("a red ball!", [3, 4, 5, 1]),
        ("ball,then cube.", [5, 8, 10, 11, 1]),
        ("red-ball", [4, 5, 1]),
        ("a giraffe", [3, 2, 1]),
        ("", [1]),
        ("?!", [1]),
    ],
)
def test_prompts_become_ids(prompt, ids):
    assert TOKENIZER(prompt)["input_ids"] == ids


def test_truncation_keeps_the_end_mark():
    assert TOKENIZER("a red ball rolls left", truncation=True, max_length=4)["input_ids"] == [3, 4, 5, 1]


def test_padding_goes_to_the_right():
    batch = TOKENIZER(["a", "a red ball"], padding="max_length", max_length=5)
    assert batch["input_ids"] == [[3, 1, 0, 0, 0], [3, 4, 5, 1, 0]]
    assert batch["attention_mask"] == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]


@pytest.mark.parametrize("load", [PreTrainedTokenizerFast.from_pretrained, AutoTokenizer.from_pretrained])
def test_save_and_load_round_trip(tmp_path, load):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    for prompt in ("A red ball, then a giraffe!", "", "ball " * 20):
        arguments = {"padding": "max_length", "truncation": True, "max_length": 9}
        assert loaded(prompt, **arguments)["input_ids"] == TOKENIZER(prompt, **arguments)["input_ids"]
        assert unknown_words(loaded, prompt) == unknown_words(TOKENIZER, prompt)
    assert loaded.padding_side == "right"


def test_unknown_words_are_given_once_in_the_users_own_spelling():
    prompt = "A Giraffe, a red BALL; two Caf\u00e9s (giraffe) left\u2026"
    assert unknown_words(TOKENIZER, prompt) == ["Giraffe", "two", "Caf\u00e9s"]


def test_known_prompts_have_no_unknown_words():
    assert unknown_words(TOKENIZER, "A red ball rolls left!") == []
    assert unknown_words(TOKENIZER, "") == []


def test_cut_words_are_what_truncation_drops():
    assert cut_words(TOKENIZER, "a red Ball, rolls LEFT, then", 5) == ["rolls", "LEFT", "then"]
    assert cut_words(TOKENIZER, "a red ball rolls", 5) == []
    assert cut_words(TOKENIZER, "a Red ball", 1) == ["a", "Red", "ball"]


@given(st.lists(st.sampled_from([*WORDS, "zebra"]), max_size=12), st.integers(2, 8))
def test_kept_and_cut_words_make_up_the_prompt(words, max_length):
    kept = TOKENIZER(" ".join(words), truncation=True, max_length=max_length)["input_ids"]
    cut = cut_words(TOKENIZER, " ".join(words), max_length)
    assert kept[-1] == 1
    assert cut == [word for word in words[len(kept) - 1 :] if word != ","]


@given(st.text(max_size=30))
def test_any_text_is_accepted(prompt):
    ids = TOKENIZER(prompt, truncation=True, max_length=6, padding="max_length")["input_ids"]
    assert len(ids) == 6
    assert 1 in ids
    assert all(word in prompt for word in unknown_words(TOKENIZER, prompt) + cut_words(TOKENIZER, prompt, 4))


def test_repeated_and_capital_words_count_once():
    assert len(build_tokenizer(["Ball", "ball", "red"])) == 5


@pytest.mark.parametrize("word", ["ice cream", "two-step", "red,", ""])
def test_words_that_prompts_split_are_refused(word):
    with pytest.raises(UserError, match="use single words or single marks"):
        build_tokenizer(["red", word])


def test_an_empty_vocabulary_is_refused():
    with pytest.raises(UserError, match="vocabulary is empty"):
        build_tokenizer([])
