"""Checks what a model can make of a sentence before it is encoded."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from m4v.core.errors import UserError
from m4v.models.text.prompt_encoder import PromptEncoder
from m4v.models.text.tokenizer import cut_words, is_word_level, unknown_words

_MAY_BE_EMPTY: ContextVar[bool] = ContextVar("may_be_empty", default=False)


@contextlib.contextmanager
def empty_prompts_allowed() -> Iterator[None]:
    """Let prompts be empty: training looks at what a model makes without any. A user who gives none made a mistake."""
    token = _MAY_BE_EMPTY.set(True)
    try:
        yield
    finally:
        _MAY_BE_EMPTY.reset(token)


def as_prompts(prompt: str | Sequence[str]) -> list[str]:
    """Turn one or several prompts into a list.

    Raises:
        UserError: if there is no prompt, or one of them is empty or not text.
    """
    if not isinstance(prompt, str | Iterable):
        raise UserError(f"The prompt is {prompt!r}; expected a sentence, or several.")
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts:
        raise UserError("There is no prompt; give at least one sentence.")
    for number, text in enumerate(prompts):
        if not isinstance(text, str):
            raise UserError(f"Prompt {number} is {text!r}; expected a sentence.")
        if not text.strip() and not _MAY_BE_EMPTY.get():
            raise UserError("The prompt is empty; describe what the video should show.")
        require_characters(text)
    return prompts


def require_characters(text: str) -> None:
    """Refuse what is left of bytes in another encoding than the terminal's; tokenizers break on it.

    Raises:
        UserError: showing the text with its foreign bytes.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"The text {text!r} holds bytes that are not UTF-8; type or paste it again.") from error


def negatives_for(negative_prompt: str | Sequence[str] | None, default: str, num_prompts: int) -> list[str]:
    """Give every prompt its negative prompt; one text serves all.

    Raises:
        UserError: if a list has another length than the prompts.
    """
    for text in [negative_prompt] if isinstance(negative_prompt, str) else negative_prompt or ():
        require_characters(text)
    if negative_prompt is None or isinstance(negative_prompt, str):
        return [default if negative_prompt is None else negative_prompt] * num_prompts
    if len(negative_prompt) != num_prompts:
        raise UserError(
            f"There are {len(negative_prompt)} negative prompts for {num_prompts} prompts; give one, or one for each."
        )
    return list(negative_prompt)


def check_words(encoder: PromptEncoder, prompts: Sequence[str], max_length: int) -> list[str]:
    """Say which words will not count.

    Args:
        encoder: What the model reads prompts with.
        prompts: Whole prompts, suffix included.
        max_length: Tokens a prompt may have in the text stream.

    Returns:
        One note per kind of problem, each word named once: words beyond a length limit, unknown words (of word-level
        tokenizers only; others can spell any word).

    Raises:
        UserError: if a prompt has no word the model knows.
    """
    notes = []
    unknown: list[str] = []
    for prompt in prompts:
        strange = _strange_words(encoder.tokenizer, prompt)
        unknown += [word for word in strange if word not in unknown]
        if cut := cut_words(encoder.tokenizer, prompt, max_length):
            notes.append(f"The prompt is longer than {max_length} tokens; cut off: {' '.join(cut)}")
        if encoder.pooled is not None:
            limit = encoder.pooled.max_length
            if missed := cut_words(encoder.pooled.tokenizer, prompt, limit):
                notes.append(f"The prompt's summary covers its first {limit} tokens only; not: {' '.join(missed)}")
    if unknown:
        notes.append(f"The model has not learned: {', '.join(unknown)}. It sees the other words only.")
    return list(dict.fromkeys(notes))


def _strange_words(tokenizer: Any, prompt: str) -> list[str]:
    if not is_word_level(tokenizer):
        return []
    strange = unknown_words(tokenizer, prompt)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if prompt and all(token == tokenizer.unk_token_id for token in ids):
        named = f" ({', '.join(strange)})" if strange else ""
        raise UserError(
            f"The model has learned none of the words in {prompt!r}{named}. Use words from its training captions."
        )
    return strange
