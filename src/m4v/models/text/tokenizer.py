"""Word-level tokenizer built in memory from a word list, and what any tokenizer can say about a prompt."""

import re
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from m4v.core.errors import UserError

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def build_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Make a tokenizer whose tokens are whole words: `<pad>` = 0, `</s>` = 1, `<unk>` = 2, then the words in order.

    Prompts are lowercased and split at spaces and punctuation. Punctuation marks that are not among the words are
    dropped, so that "a red ball!" means "a red ball". Every prompt ends with `</s>`, also a cut one.

    Args:
        words: The vocabulary; repetitions are ignored.

    Raises:
        UserError: if there are no words, or one of them would be split.
    """
    vocabulary = list(dict.fromkeys(word.lower() for word in words))
    if not vocabulary:
        raise UserError("The vocabulary is empty; give at least one word.")
    marks = "".join(word for word in vocabulary if len(word) == 1 and not word.isalnum())
    ids = {token: number for number, token in enumerate(dict.fromkeys([PAD, END, UNKNOWN, *vocabulary]))}
    backend = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(rf"[^\w\s{re.escape(marks)}]"), " ")]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    for word in vocabulary:
        pieces = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(word))
        if [piece for piece, _ in pieces] != [word]:
            raise UserError(f"The vocabulary holds {word!r}, which prompts split; use single words or single marks.")
    backend.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, ids[END])])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, padding_side="right"
    )


def is_word_level(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether tokens are whole words, so that a word can be unknown; others spell unknown words in pieces."""
    return isinstance(tokenizer.backend_tokenizer.model, models.WordLevel)


def unknown_words(tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[str]:
    """Words of the prompt a word-level tokenizer does not know, each once, as the user first spelled it."""
    if not is_word_level(tokenizer):
        return []
    encoding = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    spans = zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
    spelled = [prompt[start:end].strip() for token, (start, end) in spans if token == tokenizer.unk_token_id]
    first_spelling: dict[str, str] = {}
    for word in filter(None, spelled):
        first_spelling.setdefault(word.lower(), word)
    return list(first_spelling.values())


def cut_words(tokenizer: PreTrainedTokenizerFast, prompt: str, max_length: int) -> list[str]:
    """Words at the end of the prompt that do not fit into `max_length` tokens (begin and end marks included).

    They are given as spelled; a word cut in the middle is given whole.
    """
    # Not verbose: the note that this is for would otherwise come a second time, from the library.
    encoding = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    num_kept = max(0, max_length - tokenizer.num_special_tokens_to_add())
    if len(encoding["input_ids"]) <= num_kept:
        return []
    start, _ = encoding["offset_mapping"][num_kept]
    words = re.finditer(r"\w(?:[\w'-]*\w)?", prompt)
    return [word.group() for word in words if word.end() > start]
