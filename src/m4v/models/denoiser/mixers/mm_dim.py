"""The MM-DiM mixer: re-compose, scan, invert (Sec. 3.3, Fig. 2b main branch).

Every per-token linear map commutes with re-composition, so tokens are projected once, in their natural order, although
text is scanned twice. Channels of the projection are `[z | x | B | C]`: gate, value, input vector, output vector. Step
sizes have a projection of their own, which stays in high precision where the large one is quantised.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.context import SequenceContext
from m4v.models.denoiser.mixers.scan import SelectiveScan
from m4v.models.denoiser.mixers.step_projection import StepProjection
from m4v.models.denoiser.recomposition.registers import FrameRegisters, RegisterRows


class MMDiMMixer(SelectiveScan):
    """Mamba-2 scan over re-composed multimodal tokens; the output goes through the block's joint matrix.

    The context says along which path.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        options = config.mixer
        super().__init__(config.num_attention_heads, config.attention_head_dim, options, has_head_norm=options.qk_norm)
        width = config.width
        self.in_proj = nn.Linear(width, width + sum(self.splits))
        self.dt_proj = StepProjection(width, self.num_heads)
        self.registers = FrameRegisters(config.num_levels, width) if config.recomposition.registers else None
        self.reset_parameters()

    def shared_projections(self) -> tuple[nn.Linear, ...]:
        """Maps of the block's input; none where waves are added to it first."""
        return () if self.options.positions == "added" else (self.in_proj,)

    def forward(
        self, tokens: Float[Tensor, "b n d"], context: SequenceContext, projected: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Mix tokens; `projected` are their shared projections where a block has computed them with its own."""
        if context.added_positions is not None:
            tokens = tokens + context.added_positions.to(tokens.dtype)
        assert context.scan is not None
        registers = self.project_registers(tokens) if context.registers is None else context.registers
        rows = self.in_proj(tokens) if projected is None else projected[0]
        return self.mix(rows, registers.rows, self.dt_proj(tokens), registers.dt, context.scan)

    def project_registers(self, like: Float[Tensor, "b n d"]) -> RegisterRows:
        """Registers through the projections, in the format of tokens; no rows if there are none."""
        registers = like.new_empty(0, like.shape[-1])
        if self.registers is not None:
            registers = self.registers().to(like.dtype)
        return RegisterRows(self.in_proj(registers), self.dt_proj(registers))
