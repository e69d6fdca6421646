"""Velocity loss of one column, recorded as a device graph where that pays (Sec. 3.1).

A small denoiser is launch-bound on a data-centre GPU: most of a step goes into starting kernels. A column's shapes
depend only on its level and unit, so its forward and backward are recorded once per layout and replayed from then on.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from m4v.core.level_clip import LevelClip
from m4v.core.text_conditioning import TextConditioning
from m4v.models.denoiser.pyramid import M4VTransformer3DModel


class _ColumnLoss(nn.Module):
    """Mean squared error of the predicted velocity; takes tensors only, because a recorded graph does."""

    def __init__(self, transformer: M4VTransformer3DModel, levels: tuple[int, ...], use_bf16: bool) -> None:
        super().__init__()
        self.transformer = transformer
        self.levels = levels
        self.use_bf16 = use_bf16

    def forward(
        self,
        velocity: Float[Tensor, "b c 1 h w"],
        timesteps: Float[Tensor, "b"],
        text_tokens: Float[Tensor, "b l e"],
        text_mask: Bool[Tensor, "b l"],
        pooled: Float[Tensor, "b p"],
        *latents: Tensor,
    ) -> Float[Tensor, ""]:
        clips = [LevelClip(frames, level) for frames, level in zip(latents, self.levels, strict=True)]
        # The cast cache would keep weights of an earlier replay alive.
        with torch.autocast(velocity.device.type, torch.bfloat16, enabled=self.use_bf16, cache_enabled=False):
            predicted = self.transformer(clips, timesteps, TextConditioning(text_tokens, text_mask, pooled))
        return (predicted.float() - velocity).square().mean()


class ColumnLosses:
    """Losses of all columns of a stage, one recorded graph per layout on CUDA, plain calls elsewhere.

    Gradients of the weights must be allocated before the first call and zeroed in place between steps: a replay writes
    its gradients to memory of its own, which autograd then adds to them.

    Args:
        transformer: The denoiser.
        use_bf16: Whether the forward pass runs in bf16.
        use_graphs: Record graphs; needs a CUDA device.
    """

    def __init__(self, transformer: M4VTransformer3DModel, *, use_bf16: bool, use_graphs: bool) -> None:
        self.transformer = transformer
        self.use_bf16 = use_bf16
        self.use_graphs = use_graphs
        self._modules: dict[tuple[tuple[int, torch.Size], ...], nn.Module] = {}
        self._pool = torch.cuda.graph_pool_handle() if use_graphs else None

    def __call__(
        self,
        clips: Sequence[LevelClip],
        timesteps: Float[Tensor, "b"],
        text: TextConditioning,
        velocity: Float[Tensor, "b c 1 h w"],
    ) -> Float[Tensor, ""]:
        """Compute the loss of a column whose last clip is noisy."""
        inputs = (velocity, timesteps, text.tokens, text.mask, text.pooled, *(clip.latents for clip in clips))
        layout = tuple((clip.level, clip.latents.shape) for clip in clips)
        if layout not in self._modules:
            module = _ColumnLoss(self.transformer, tuple(clip.level for clip in clips), self.use_bf16)
            self._modules[layout] = self._record(module, inputs) if self.use_graphs else module
        loss: Tensor = self._modules[layout](*inputs)
        # A replay answers in memory of its graph, which the next replay of this layout overwrites.
        return loss.clone() if self.use_graphs else loss

    def _record(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
        samples = tuple(tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in inputs)
        # Replays of different layouts never overlap, so all graphs may share one memory pool.
        recorded = torch.cuda.make_graphed_callables(module, samples, allow_unused_input=True, pool=self._pool)
        assert isinstance(recorded, nn.Module)
        return recorded
