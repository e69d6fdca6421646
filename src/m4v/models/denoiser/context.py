"""What all blocks of one forward pass share: layout, masks, rotations, plans and the modulation embedding."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from m4v.core.sequence_layout import SequenceLayout
from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.positions import added_positions, layout_rotary
from m4v.models.denoiser.recomposition.registers import RegisterRows
from m4v.models.denoiser.recomposition.scan_order import ScanOrder, scan_orders
from m4v.models.denoiser.time_plan import TimePlan, time_plan
from m4v.models.denoiser.visibility import Visibility, sequence_visibility
from m4v.ops.rope import RotaryTable


@dataclass(frozen=True)
class SequenceContext:
    """Shared inputs of every block.

    Attributes:
        layout: What the sequence is made of.
        embedding: Timestep and prompt embedding, before the SiLU of each modulation.
        rotary: Rotations in token order, text first.
        visibility: Which token may see which; None where no block attends over the sequence.
        scan_orders: By letter of the scan path.
        added_positions: Waves added before projection, where the mixer asks for them.
        time_plan: Time tokens of the layout, where blocks have a temporal branch.
        scan: The order in which the block at hand scans.
        modulation: Modulation of the block at hand, where it was computed for all blocks at once.
        registers: Registers of the block at hand, where they are remembered from step to step.
    """

    layout: SequenceLayout
    embedding: Float[Tensor, "b d"]
    rotary: RotaryTable
    visibility: Visibility | None
    scan_orders: Mapping[str, ScanOrder]
    added_positions: Float[Tensor, "n d"] | None
    time_plan: TimePlan | None
    scan: ScanOrder | None = None
    modulation: Float[Tensor, "b m"] | None = None
    registers: RegisterRows | None = None

    @property
    def num_text_tokens(self) -> int:
        """Text tokens at hand; they come before the video tokens."""
        return self.layout.num_text_tokens

    def own_text(self, rows: Float[Tensor, "b l d"]) -> Float[Tensor, "b _ d"]:
        """Those of the text's rows that are computed here: all of them, unless ranks share the sequence."""
        return rows

    def own_video(self, rows: Float[Tensor, "b v d"]) -> Float[Tensor, "b _ d"]:
        """Those of the video's rows that are computed here."""
        return rows

    def noisy_tokens(self, video_tokens: Float[Tensor, "b _ d"]) -> Float[Tensor, "b _ d"]:
        """The noisy frames' part of the video tokens at hand."""
        return video_tokens[:, self.layout.num_history_tokens :]

    def whole_noisy(self, rows: Float[Tensor, "b _ c"]) -> Float[Tensor, "b n c"]:
        """All rows of the noisy frames, from those at hand."""
        return rows

    def along(
        self, path: str, modulation: Float[Tensor, "b m"] | None = None, registers: RegisterRows | None = None
    ) -> "SequenceContext":
        """The context of a block that scans along `path`, if it scans at all.

        Blocks are given their order instead of looking it up, so that one compiled block serves all paths.

        Args:
            modulation: The block's modulation, if it is computed already.
            registers: The block's projected registers, likewise.
        """
        return replace(self, scan=self.scan_orders.get(path), modulation=modulation, registers=registers)


def sequence_context(
    config: DenoiserConfig, layout: SequenceLayout, embedding: Tensor, text_mask: Tensor
) -> SequenceContext:
    """Prepare what the blocks of `config` need for one layout and batch."""
    device = embedding.device
    rotary = layout_rotary(layout, config.rope_axes_dims, device)
    has_branch = config.temporal_branch.enabled and "mm_dim" in config.kinds
    added = added_positions(layout, config.width, device) if config.mixer.positions == "added" else None
    return SequenceContext(
        layout=layout,
        embedding=embedding,
        rotary=rotary,
        visibility=_visibility(config, layout, text_mask),
        scan_orders=scan_orders(
            config.scanned_paths,
            layout,
            config.recomposition,
            text_mask,
            rotary if config.mixer.positions == "rope" else None,
            num_register_kinds=config.num_levels,
        ),
        added_positions=added,
        time_plan=time_plan(layout, device) if has_branch else None,
    )


def _visibility(config: DenoiserConfig, layout: SequenceLayout, text_mask: Tensor) -> Visibility | None:
    dual_attends = config.num_dual_layers > 0 and config.dual_mixer == "attention"
    if not dual_attends and all(kind == "mm_dim" for kind in config.kinds):
        return None
    return sequence_visibility(layout, text_mask, config.temporal_causal_attention)
