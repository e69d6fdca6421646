"""The MM-DiM mixer: re-compose, scan, invert (Sec. 3.3, Fig. 2b main branch).

Every per-token linear map commutes with re-composition, so tokens are projected once, in their natural order, although
text is scanned twice. Channels of the projection are `[z | x | B | C]`: gate, value, input vector, output vector. Step
sizes have a projection of their own, which stays in high precision where the large one is quantised.
"""

from jaxtyping import Float
from torch import Tensor, nn

from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.context import SequenceContext
from m4v.models.denoiser.mixers.scan import SelectiveScan
from m4v.models.denoiser.normalization import HeadNorm
from m4v.models.denoiser.recomposition.registers import FrameRegisters
from m4v.ops.recompose.reference import RowOrder, invert, recompose


class MMDiMMixer(SelectiveScan):
    """Mamba-2 scan over re-composed multimodal tokens; the output goes through the block's joint matrix.

    The context says along which path.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__(config.num_attention_heads, config.attention_head_dim, config.mixer)
        width = config.width
        self.in_proj = nn.Linear(width, width + sum(self.splits))
        self.dt_proj = nn.Linear(width, self.num_heads)
        state_dim = config.mixer.state_dim or config.attention_head_dim
        self.norm_b = HeadNorm(state_dim) if config.mixer.qk_norm else nn.Identity()
        self.norm_c = HeadNorm(state_dim) if config.mixer.qk_norm else nn.Identity()
        if config.recomposition.registers:
            self.registers = FrameRegisters(config.num_levels, width)
        self.reset_parameters()

    def forward(self, tokens: Float[Tensor, "b n d"], context: SequenceContext) -> Float[Tensor, "b n d"]:
        if context.added_positions is not None:
            tokens = tokens + context.added_positions.to(tokens.dtype)
        scan = context.scan
        assert scan is not None
        z, xbc = self._recompose(self.in_proj, tokens, scan.bound.order).tensor_split([tokens.shape[-1]], dim=-1)
        # Its weights may be wider than the tokens: see `_keep_in_fp32_modules` of the denoiser.
        dt = self._recompose(self.dt_proj, tokens.to(self.dt_proj.weight.dtype), scan.bound.order)
        return invert(self.scan(z, xbc, dt, scan, self.norm_b, self.norm_c), scan.bound.order)

    def _recompose(self, projection: nn.Linear, tokens: Tensor, order: RowOrder) -> Tensor:
        projected = projection(tokens)
        has_registers = hasattr(self, "registers")
        rows = (
            projection(self.registers().to(tokens.dtype))
            if has_registers
            else projected.new_zeros(0, projected.shape[-1])
        )
        return recompose(projected, rows, order)
