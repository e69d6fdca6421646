"""Attention weights as the start of an MM-DiM mixer (Appendix D.2): one recipe per tensor.

Causal linear attention is `y_t = sum_s (q_t . k_s) v_s`; the scan is `y_t = sum_s decay dt_s (C_t . B_s) x_s + D x_t`.
What is read at the output's time plays the query, what is written at the input's time plays the key: C starts from Q,
B from K, x from V, and the matrix behind the mixer stays. Appendix D.2 pairs B with W_q and C with W_k
"respectively", which is the transposed score; that order is kept as `paper_text`.

The pairing reaches everything that shapes queries and keys: matrices, biases and norms (rotary positions need no
weights). The rest begins where it disturbs that least: the convolution passes each token's own row, the gate is
constant, every head starts with one step size. What attention has no counterpart for starts as in a new model.

In a dual-stream block each modality's projections start from its own attention's; the one scan behind them has one norm
for B and one for C, and takes the video's, whose tokens are a hundred times as many.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from m4v.checkpoints.tensor_files import TensorSpec
from m4v.checkpoints.tensor_recipes import Recipe, Tensors, taken
from m4v.core.seeds import fold_seed
from m4v.models.denoiser.config import MixerConfig
from m4v.models.denoiser.mixers.scan import SelectiveScan
from m4v.models.denoiser.recomposition.registers import FrameRegisters

MapName = Literal["duality", "paper_text"]

PARTNERS: dict[MapName, dict[str, str]] = {
    "duality": {"C": "q", "B": "k", "x": "v"},
    "paper_text": {"C": "k", "B": "q", "x": "v"},
}
"""Map -> which of query, key and value each of C, B and x starts from."""

CONSTANT_GATE = 1.0
"""Bias of the gate rows, whose weights are zero: silu(1) scales all channels alike, and the output norm removes it."""

_ROLES = {
    "norm_b": "B",  # pyramid base: named after what they normalise
    "norm_c": "C",
    "to_q": "C",  # Wan base: C, B and x keep the names of what they replace
    "to_k": "B",
    "to_v": "x",
    "norm_q": "C",
    "norm_k": "B",
}
"""Parts of a mixer that are attention's matrices and norms under whatever name -> what they make or normalise."""

_ZEROS = ("dt_proj.weight", "dt_proj.bias", "to_dt.weight", "to_dt.bias", "to_z.weight", "conv_bias")


@dataclass(frozen=True, kw_only=True)
class MambaInitialisation:
    """Choices of a conversion.

    Attributes:
        plan: A name of Table 4, or one kind per layer, for the layers that are attention now.
        dual_mixer: What dual-stream blocks mix by afterwards; "attention" leaves them as they are.
        map: Which attention weights become B and C.
        conv_activation: What follows the convolution of the new mixers.
        seed: Seed of new tensors; each tensor's values depend on it and on the tensor's name only.
    """

    plan: str | tuple[str, ...] = "full"
    dual_mixer: Literal["attention", "mm_dim"] = "attention"
    map: MapName = "duality"
    conv_activation: Literal["silu", "none"] = "silu"
    seed: int = 0


@dataclass(frozen=True)
class MixerPlace:
    """Where one layer keeps its mixers.

    Attributes:
        block: Prefix of the layer, with a dot at its end.
        attention: Prefix of the attention's tensors in the source.
        mixer: Prefix of the scan's tensors in the result.
        kept_attention: Prefix of the attention's tensors in the result, where both stand side by side.
        streams: Where projections are one set per modality: the part of the scan's names that says which, and the
            prefix of that modality's attention in the source.
    """

    block: str
    attention: str
    mixer: str
    kept_attention: str | None = None
    streams: Mapping[str, str] = field(default_factory=dict)


def mamba_recipes(
    source: Tensors,
    target: Mapping[str, TensorSpec],
    places: Mapping[str, MixerPlace],
    options: MixerConfig,
    initialisation: MambaInitialisation,
) -> Iterator[Recipe]:
    """Give every tensor of the converted network its recipe.

    Args:
        source: Tensors of the network with attention.
        target: Tensors of the network to make, in its order.
        places: The layers that change, by their prefix.
        options: Convolution and state of the new mixers.
        initialisation: Map and seed.

    Source: Appendix D.2.
    """
    for name in target:
        block = ".".join(name.split(".")[:2]) + "."
        if block in places:
            yield _LayerRecipes(source, target, places[block], options, initialisation).recipe(name)
        else:
            yield taken(name, source)


@dataclass(frozen=True)
class _LayerRecipes:
    """Recipes of one layer that turns from attention to a scan."""

    source: Tensors
    target: Mapping[str, TensorSpec]
    place: MixerPlace
    options: MixerConfig
    initialisation: MambaInitialisation

    def recipe(self, name: str) -> Recipe:
        place = self.place
        if place.kept_attention is not None and name.startswith(place.kept_attention):
            return taken(name, self.source, place.attention + name.removeprefix(place.kept_attention))
        made: Recipe | None = None
        if name.startswith(place.mixer):
            part = name.removeprefix(place.mixer)
            stream, _, rest = part.partition(".")
            if stream in place.streams:
                of_stream = replace(self, place=replace(place, attention=place.streams[stream]))
                return (
                    of_stream._from_attention(name, rest) or of_stream._new_part(name, rest) or taken(name, self.source)
                )
            made = self._from_attention(name, part) or self._new_part(name, part)
        elif name.startswith(f"{place.block}temporal_branch."):
            made = self._new_branch(name)
        return made or taken(name, self.source)

    def _from_attention(self, name: str, part: str) -> Recipe | None:
        """Tensors made of queries, keys and values: matrices, biases, norms."""
        partner = PARTNERS[self.initialisation.map]
        if part in ("in_proj.weight", "in_proj.bias"):  # pyramid base: one matrix for gate, x, B and C
            return self._stacked(name, part.removeprefix("in_proj."), [partner[role] for role in ("x", "B", "C")])
        own, _, kind = part.partition(".")
        role = _ROLES.get(own)
        if role is None:
            return None
        stem = "to" if own.startswith("to_") else "norm"
        # Norms of the pyramid base are parameters of the mixer itself, without a kind.
        return taken(name, self.source, f"{self.place.attention}{stem}_{partner[role]}.{kind or 'weight'}")

    def _stacked(self, name: str, kind: str, letters: list[str]) -> Recipe:
        """Rows of the gate, then those of three projections of the attention."""
        attention, gate = self.place.attention, 0.0 if kind == "weight" else CONSTANT_GATE
        rows = tuple(f"{attention}to_{letter}.{kind}" for letter in letters)
        spec, heights = self.target[name], [self.source.specs[row].shape[0] for row in rows]
        num_gates = spec.shape[0] - sum(heights)

        def stack() -> Tensor:
            stacked = torch.empty(spec.shape, dtype=spec.dtype)
            z, *parts = stacked.split([num_gates, *heights])
            z.fill_(gate)
            for part, row in zip(parts, rows, strict=True):
                part.copy_(self.source.read(row))
            return stacked

        told = f"{attention}[gate {gate:g} | {' | '.join(f'to_{letter}' for letter in letters)}].{kind}"
        return Recipe(name, spec, stack, "derived", told, rows)

    def _new_part(self, name: str, part: str) -> Recipe | None:
        """Tensors of the scan that attention has no counterpart for."""
        spec = self.target[name]
        if part in _ZEROS:
            return _filled(name, spec, 0.0)
        if part == "to_z.bias":
            return _filled(name, spec, CONSTANT_GATE)
        if part == "conv_weight":
            return Recipe(name, spec, lambda: _delta(spec), "new", "1 on the last tap, 0 elsewhere")
        if part == "registers.rows":
            return self._drawn(name, "as registers begin", lambda: FrameRegisters(*spec.shape).rows)
        if part in ("A_log", "D_skip", "dt_bias", "norm_weight"):
            return self._drawn(name, "as a scan begins", lambda: self._fresh_scan()[part])
        return None

    def _new_branch(self, name: str) -> Recipe | None:
        """The temporal branch, which its gate keeps closed: matrices as in a new network, biases 0, norms 1."""
        spec = self.target[name]
        if name.endswith(".dt_bias"):
            return _filled(name, spec, -1.0)
        if len(spec.shape) == 2:
            return self._drawn(name, "Xavier-uniform", lambda: nn.init.xavier_uniform_(torch.empty(spec.shape)))
        return _filled(name, spec, 1.0 if "norm" in name else 0.0)

    def _fresh_scan(self) -> dict[str, Tensor]:
        heads, head_dim = self.target[f"{self.place.mixer}norm_weight"].shape
        scan = SelectiveScan(heads, head_dim, self.options, has_head_norm=False)
        scan.reset_parameters()
        return scan.state_dict()

    def _drawn(self, name: str, how: str, make: Callable[[], Tensor]) -> Recipe:
        """Random values that depend on the seed and the tensor's name only."""
        seed = fold_seed(self.initialisation.seed, name)

        def draw() -> Tensor:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return make().detach().to(self.target[name].dtype)

        return Recipe(name, self.target[name], draw, "new", f"{how} (seed {self.initialisation.seed})")


def _filled(name: str, spec: TensorSpec, value: float) -> Recipe:
    return Recipe(name, spec, lambda: torch.full(spec.shape, value, dtype=spec.dtype), "new", f"{value:g} everywhere")


def _delta(spec: TensorSpec) -> Tensor:
    """A causal convolution that passes its input: the last tap meets the token itself."""
    weight = torch.zeros(spec.shape, dtype=spec.dtype)
    weight[:, -1] = 1
    return weight
