"""What all blocks of one forward pass share: layout, masks, rotations, plans and the modulation embedding."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from m4v.core.sequence_layout import SequenceLayout
from m4v.models.denoiser.config import DenoiserConfig, RecompositionConfig
from m4v.models.denoiser.positions import added_positions, layout_rotary, temporal_causal_mask
from m4v.models.denoiser.recomposition.plan import BoundPlan, recomposition_plan
from m4v.ops.rope import RotaryTable


@dataclass(frozen=True)
class ScanOrder:
    """One scan path applied to this batch, with rotations already in scan order."""

    bound: BoundPlan
    rotary: RotaryTable | None


@dataclass(frozen=True)
class SequenceContext:
    """Shared inputs of every block.

    Attributes:
        layout: What the sequence is made of.
        embedding: Timestep and prompt embedding, before the SiLU of each modulation.
        rotary: Rotations in token order, text first.
        attention_mask: True where a query may see a key.
        scan_orders: By letter of the scan path.
        added_positions: Waves added before projection, where the mixer asks for them.
        scan: The order in which the block at hand scans.
    """

    layout: SequenceLayout
    embedding: Float[Tensor, "b d"]
    rotary: RotaryTable
    attention_mask: Bool[Tensor, "b 1 n n"]
    scan_orders: Mapping[str, ScanOrder]
    added_positions: Float[Tensor, "n d"] | None
    scan: ScanOrder | None = None

    def along(self, path: str) -> "SequenceContext":
        """The context of a block that scans along `path`, if it scans at all.

        Blocks are given their order instead of looking it up, so that one compiled block serves all paths.
        """
        return replace(self, scan=self.scan_orders.get(path))


def attention_mask(
    layout: SequenceLayout, text_mask: Bool[Tensor, "b l"], temporal_causal: bool
) -> Bool[Tensor, "b 1 n n"]:
    """Same-document and, if asked, temporal-causal mask over text and video tokens.

    Padding sees padding only, so that no row of the softmax is empty and no real token sees padding.

    Source: Sec. 3.1 ("temporal causal mask"); Pyramid-Flow.
    """
    batch = text_mask.shape[0]
    is_video = text_mask.new_ones(batch, layout.num_video_tokens)
    is_real = torch.cat([text_mask, is_video], dim=1)
    mask = is_real[:, :, None] == is_real[:, None, :]
    if temporal_causal:
        mask = mask & temporal_causal_mask(layout, text_mask.device)
    return mask[:, None]


def scan_orders(
    paths: Iterable[str],
    layout: SequenceLayout,
    config: RecompositionConfig,
    text_mask: Bool[Tensor, "b l"],
    rotary: RotaryTable | None,
) -> dict[str, ScanOrder]:
    """Scan order of every path named, for one layout and batch.

    Args:
        paths: Letters, repeated or not.
        text_mask: True on real text tokens, which come first.
        rotary: Rotations in token order, text first; None where the scan takes no positions.
    """
    orders = {}
    for path in sorted(set(paths)):
        bound = recomposition_plan(layout, path, config, text_mask.device).bind(text_mask)
        orders[path] = ScanOrder(bound, None if rotary is None else bound.rotary(rotary))
    return orders


def sequence_context(
    config: DenoiserConfig, layout: SequenceLayout, embedding: Tensor, text_mask: Tensor
) -> SequenceContext:
    """Prepare what the blocks of `config` need for one layout and batch."""
    device = embedding.device
    rotary = layout_rotary(layout, config.rope_axes_dims, device)
    scans = [config.scan_path(layer) for layer, kind in enumerate(config.kinds) if kind != "attention"]
    added = added_positions(layout, config.width, device) if config.mixer.positions == "added" else None
    return SequenceContext(
        layout=layout,
        embedding=embedding,
        rotary=rotary,
        attention_mask=attention_mask(layout, text_mask, config.temporal_causal_attention),
        scan_orders=scan_orders(
            scans, layout, config.recomposition, text_mask, rotary if config.mixer.positions == "rope" else None
        ),
        added_positions=added,
    )
