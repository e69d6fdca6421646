"""Words of one's own captions that a word-level text encoder has not learned: each gets an embedding of its own.

Text encoders that spell unknown words in pieces (T5, umT5) know every word and stay as they are.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from m4v.core.generators import generator_for
from m4v.models.text.tokenizer import build_tokenizer, is_word_level

_NUM_SPECIAL = 3


def new_words(tokenizer: PreTrainedTokenizerFast, captions: Iterable[str]) -> Counter[str]:
    """Words that a tokenizer does not know, as it would spell them, with the number of captions that hold each.

    A tokenizer that is not word-level lacks none.
    """
    counts: Counter[str] = Counter()
    if not is_word_level(tokenizer):
        return counts
    backend, known = tokenizer.backend_tokenizer, tokenizer.get_vocab()
    for caption in captions:
        pieces = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(caption))
        counts.update({word for word, _ in pieces if word not in known and any(map(str.isalnum, word))})
    return counts


def grow_tokenizer(tokenizer: PreTrainedTokenizerFast, words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Make a word-level tokenizer that also knows some words; ids of the words known before stay.

    Args:
        tokenizer: As `build_tokenizer` makes them.
        words: As `new_words` spells them.
    """
    ids = tokenizer.get_vocab()
    before = sorted(ids, key=lambda word: ids[word])[_NUM_SPECIAL:]
    return build_tokenizer([*before, *words])


def fit_vocabulary(text_encoder: T5EncoderModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> int:
    """Give a text encoder a row for every token, in place; new rows are drawn about the mean of those there are.

    Args:
        text_encoder: May already have enough rows.
        tokenizer: What it is to read.
        seed: Fixes the new rows; global random state is left as it was.

    Returns:
        Rows there were before.
    """
    known: Tensor = text_encoder.get_input_embeddings().weight.detach()
    before, after = len(known), len(tokenizer)
    if before < after:
        with torch.random.fork_rng(devices=[]):  # the library fills the rows itself before we do
            text_encoder.resize_token_embeddings(after, mean_resizing=False)
        generator = generator_for(seed, "new words")
        noise = torch.randn(after - before, known.shape[1], generator=generator).to(known)
        with torch.no_grad():
            text_encoder.get_input_embeddings().weight[before:] = known.mean(dim=0) + known.std(dim=0) * noise
    return before


class NewWords(nn.Module):
    """Embedding of which only the rows of new words are trained.

    Args:
        weight: All rows.
        num_known: Rows that stay as they are.
    """

    def __init__(self, weight: Float[Tensor, "n e"], num_known: int) -> None:
        super().__init__()
        self.register_buffer("known", weight[:num_known].detach().clone(), persistent=False)
        self.rows = nn.Parameter(weight[num_known:].detach().clone())

    known: Float[Tensor, "k e"]

    def table(self) -> Float[Tensor, "n e"]:
        """All rows, the known ones first."""
        return torch.cat([self.known, self.rows])

    def forward(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l e"]:
        """Look up tokens."""
        return F.embedding(ids, self.table())


def train_new_words(text_encoder: T5EncoderModel, num_known: int) -> NewWords:
    """Freeze a text encoder but for the embeddings of its newest words, in place.

    Args:
        text_encoder: With a row for every token.
        num_known: Rows that stay as they are.

    Returns:
        What is left to train.
    """
    text_encoder.requires_grad_(False)
    words = NewWords(text_encoder.get_input_embeddings().weight, num_known)
    text_encoder.encoder.embed_tokens = words
    return words


def merge_new_words(text_encoder: T5EncoderModel) -> T5EncoderModel:
    """Make a plain text encoder on the CPU that computes what one with new words does; the argument stays.

    Args:
        text_encoder: Given back as it is if it has no `NewWords`.
    """
    words: Any = text_encoder.encoder.embed_tokens
    if not isinstance(words, NewWords):
        return text_encoder
    plain: T5EncoderModel = type(text_encoder)(text_encoder.config)
    state: Mapping[str, Tensor] = {
        name: value for name, value in text_encoder.state_dict().items() if "embed_tokens" not in name
    }
    table = words.table().detach()
    plain.load_state_dict({**state, "shared.weight": table, "encoder.embed_tokens.weight": table})
    return plain.eval()


def word_embeddings(words: NewWords, tokenizer: PreTrainedTokenizerFast) -> dict[str, Float[Tensor, "1 e"]]:
    """Embeddings of the new words, by word."""
    names = tokenizer.convert_ids_to_tokens(list(range(len(words.known), len(tokenizer))))
    return {name: row[None] for name, row in zip(names, words.rows.detach(), strict=True)}
