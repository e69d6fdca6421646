"""Words that a LoRA run taught a small text encoder, put on a pipeline (files as textual inversion has them)."""

from pathlib import Path
from typing import Any

import torch

from m4v.checkpoints.weights import load_tensors
from m4v.core.errors import UserError
from m4v.models.text.tokenizer import is_word_level
from m4v.models.text.vocabulary import fit_vocabulary, grow_tokenizer


def load_learned_words(pipeline: Any, path: Path) -> None:
    """Give a pipeline's tokenizer and text encoder the words of a file; words it knows keep their meaning.

    Args:
        pipeline: With a word-level tokenizer.
        path: A safetensors file with one embedding per word, named by it.

    Raises:
        UserError: if the file cannot be read, or its embeddings do not fit the text encoder.
    """
    encoder, tokenizer = pipeline.text_encoder, pipeline.tokenizer
    width = encoder.get_input_embeddings().weight.shape[1]
    rows = load_tensors(path)
    bad = [word for word, row in rows.items() if tuple(row.shape) != (1, width)]
    if bad or not is_word_level(tokenizer):
        raise UserError(
            f"{path} holds embeddings of words for another text encoder than this model's; use the base they were "
            "trained on."
        )
    known = tokenizer.get_vocab()
    words = [word for word in rows if word not in known]
    if not words:
        return
    grown = grow_tokenizer(tokenizer, words)
    fit_vocabulary(encoder, grown, seed=0)
    ids = grown.get_vocab()
    table = encoder.get_input_embeddings().weight
    with torch.no_grad():
        for word in words:
            table[ids[word]] = rows[word][0].to(table)
    pipeline.register_modules(tokenizer=grown)
