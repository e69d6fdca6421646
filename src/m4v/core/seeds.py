"""Counter-based seeds: a number for every (seed, purpose, index), the same on all machines and for any rank count."""

import hashlib


def fold_seed(seed: int, *indices: int | str) -> int:
    """Derive a 63-bit seed from a seed and any number of labels or counters.

    Two different label sequences give independent seeds, so a training step, a clip and a batch row can each own
    a generator without anyone storing generator state.
    """
    key = "/".join([str(int(seed)), *map(_label, indices)])
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _label(index: int | str) -> str:
    # A doubled slash is part of a label, a single one stands between labels: no two sequences read alike.
    return f"str:{index.replace('/', '//')}" if isinstance(index, str) else f"int:{int(index)}"
