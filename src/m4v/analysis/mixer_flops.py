"""Floating-point operations of the parts that mixers of both bases are made of (a multiply-add counts as 2).

Only matrix products are counted: norms, activations, rotations and the convolution's few taps are memory traffic, not
arithmetic that matters.
"""

from math import ceil


def attention_scores_flops(num_queries: int, num_keys: int, width: int) -> float:
    """Scores and weighted values over all pairs, masked ones included: `4 n m d`."""
    return 4.0 * num_queries * num_keys * width


def projection_flops(num_tokens: int, in_width: int, out_width: int) -> float:
    """One linear map of every token: `2 n i o`."""
    return 2.0 * num_tokens * in_width * out_width


def ssd_flops(num_tokens: int, num_heads: int, head_dim: int, state_dim: int, chunk_size: int) -> float:
    """Chunked state-space scan: whole tiles of Q x Q inside each chunk, then the states between chunks.

    Per token and head `2Q(N + P) + 4NP`; the last chunk is filled up with tokens that do nothing.

    Source: Mamba-2, section 6.
    """
    chunk = min(chunk_size, num_tokens)
    computed = ceil(num_tokens / chunk) * chunk
    return computed * num_heads * (2.0 * chunk * (state_dim + head_dim) + 4.0 * state_dim * head_dim)


def temporal_branch_flops(num_times: int, positions: int, num_heads: int, head_dim: int, mixer: str) -> float:
    """Query, key and value projections of all time tokens, and what mixes them: attention, or "ssd".

    Args:
        num_times: Time tokens: pooled history frames and phases of noisy ones.
        positions: Positions of each, which its heads span.
    """
    width = num_heads * head_dim
    projections = 3 * projection_flops(num_times * positions, width, width)
    if mixer == "ssd":
        span = positions * head_dim
        return projections + ssd_flops(num_times, num_heads, span, span, chunk_size=64)
    return projections + attention_scores_flops(num_times, num_times, positions * width)
