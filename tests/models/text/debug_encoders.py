"""Tiny CLIP and T5 text networks with tokenizers of the real kinds, all built in memory."""

import string
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

CLIP_DIM, T5_DIM = 12, 16
_LETTERS = string.ascii_lowercase + string.digits + ",.!-"


def clip_tokenizer() -> Any:
    """Byte-level BPE that knows letters and the word "ball"; 77 tokens, padded with the end mark."""
    pieces = ["<|startoftext|>", "<|endoftext|>", *_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]
    merges = [("b", "a"), ("ba", "l"), ("bal", "l</w>")]
    vocab = {piece: number for number, piece in enumerate([*pieces, *("".join(merge) for merge in merges)])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def t5_tokenizer() -> Any:
    """SentencePiece unigrams: letters, and the word "ball" as one piece."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁ball", -1.0)]
    pieces += [(letter, -3.0) for letter in _LETTERS]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def clip_encoder() -> CLIPTextModel:
    """One layer, width 12."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(clip_tokenizer()),
            hidden_size=CLIP_DIM,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    ).eval()


def t5_encoder() -> T5EncoderModel:
    """One layer, width 16."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(t5_tokenizer()),
            d_model=T5_DIM,
            d_kv=8,
            d_ff=16,
            num_layers=1,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    ).eval()


def text_parts(seed: int = 0) -> dict[str, Any]:
    """All four text parts under the names that a pipeline gives them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {
            "text_encoder": clip_encoder(),
            "tokenizer": clip_tokenizer(),
            "text_encoder_2": t5_encoder(),
            "tokenizer_2": t5_tokenizer(),
        }
