"""What the blocks of one Wan forward pass share: layout and scan orders."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from jaxtyping import Bool, Float
from torch import Tensor

from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.models.denoiser.positions import layout_rotary
from m4v.models.denoiser.recomposition.scan_order import ScanOrder, scan_orders
from m4v.models.denoiser.time_plan import TimePlan, time_plan
from m4v.models.denoiser.wan_config import WanConfig
from m4v.ops.rope import RotaryTable

_FIRST, _MIDDLE, _LAST = range(3)


@dataclass(frozen=True)
class WanContext:
    """Shared inputs of every MM-DiM block; attention blocks need none of it.

    Attributes:
        layout: All frames noisy and of one size; no text tokens where scans do not see text.
        scan_orders: By letter of the scan path.
        video_rotary: Rotations of the video tokens in their natural order, for the temporal branches.
        time_plan: Time tokens of the temporal branches: one per frame, each a time of its own.
        scan: The order in which the block at hand scans.
    """

    layout: SequenceLayout
    scan_orders: Mapping[str, ScanOrder]
    video_rotary: RotaryTable
    time_plan: TimePlan
    scan: ScanOrder | None = None

    def along(self, path: str) -> "WanContext":
        """The context of a block that scans along `path`; see `SequenceContext.along`."""
        return replace(self, scan=self.scan_orders.get(path))


def single_resolution_layout(
    config: WanConfig, num_frames: int, height: int, width: int, num_text_tokens: int
) -> SequenceLayout:
    """Layout of a whole clip, denoised together: one level, registers of one kind or by role.

    Args:
        num_frames: Token frames; rows and columns likewise count tokens.
    """
    grid = FrameGrid(0, height, width)
    if config.recomposition.register_kinds == "one":
        frames = (grid,) * num_frames
    else:
        roles = [_FIRST, *[_MIDDLE] * (num_frames - 2), _LAST][:num_frames]
        frames = tuple(replace(grid, register=role) for role in roles)
    return SequenceLayout(frames, num_text_tokens, num_noisy_frames=num_frames)


def wan_context(config: WanConfig, grid: tuple[int, int, int], text_mask: Bool[Tensor, "b l"]) -> WanContext:
    """Prepare what MM-DiM blocks need for one clip size and batch of prompts.

    Args:
        grid: Token frames, rows and columns.
        text_mask: True on real text tokens.
    """
    if config.text_path == "none":
        text_mask = text_mask[:, :0]
    layout = single_resolution_layout(config, *grid, num_text_tokens=text_mask.shape[1])
    rotary = layout_rotary(layout, config.rope_axes_dims, text_mask.device)
    paths = [config.recomposition.scan_path(layer) for layer, kind in enumerate(config.kinds) if kind == "mm_dim"]
    return WanContext(
        layout=layout,
        scan_orders=scan_orders(
            paths,
            layout,
            config.recomposition,
            text_mask,
            rotary if config.mixer.positions == "rope" else None,
            num_register_kinds=config.recomposition.num_register_kinds,
        ),
        video_rotary=RotaryTable(*(part[layout.num_text_tokens :] for part in rotary)),
        time_plan=time_plan(layout, text_mask.device, noisy_is_one_time=False),
    )


def real_text(embeddings: Float[Tensor, "b l e"]) -> Bool[Tensor, "b l"]:
    """True up to the last row that is not all zero: Wan's prompts are padded with zeros after encoding.

    Source: Wan2.1 (embeddings are cut at the prompt's length and filled with zeros to 512 rows).
    """
    is_set = embeddings.ne(0).any(-1)
    # A row is real if it or any later one is set; counted from the end, which also serves prompts of no rows.
    return is_set.flip(1).cumsum(1).flip(1) > 0
