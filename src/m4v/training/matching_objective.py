"""Objective that fits converted layers to the attention they replace, layer by layer (Appendix D.2).

The teacher runs once, and every converted layer is asked about the tokens that entered the teacher's layer of the same
number: no layer sees another's error, so all of them learn at once and a layer's graph is freed before the next one's.

What is compared is what a mixer adds to the residual stream: its output through the block's output matrix, before the
gate that all tokens of a sample share. Behind the matrix, because an error that it drops harms nobody; before the gate,
because it is shut where a network begins and would then hide every error. The squared error is divided by the power of
the teacher's contribution: 0 is a perfect copy, 1 is no better than silence. Padding of the text does not count.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from m4v.core.errors import UserError
from m4v.models.denoiser.blocks.dual_mm_dim import DualMMDiMBlock
from m4v.models.denoiser.blocks.mm_dit import MMDiTBlock
from m4v.models.denoiser.blocks.single_stream import SingleStreamBlock
from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.context import SequenceContext, sequence_context
from m4v.models.denoiser.modulation import modulate
from m4v.models.denoiser.pyramid import M4VTransformer3DModel, sequence_layout
from m4v.training.flow_objective import ColumnInputs, PyramidFlowObjective
from m4v.training.loop import LossTerm
from m4v.training.matching_config import MatchPart
from m4v.training.precision import autocast

Streams = tuple[Float[Tensor, "b l d"], Float[Tensor, "b v d"]]
"""Text and video tokens."""

_MAY_DIFFER = frozenset({"mixer_plan", "dual_mixer", "mixer", "recomposition", "temporal_branch"})
_LEAST_POWER = 1e-12


@dataclass(frozen=True)
class LayerPair:
    """A layer of the teacher and the one it became.

    Attributes:
        name: `dual-NN` or `single-NN`, counted from 0.
        teacher: Block with attention.
        student: Block with a scan.
        number: Place in the list of its kind, which decides the scan path.
    """

    name: str
    teacher: nn.Module
    student: nn.Module
    number: int

    @property
    def mixer(self) -> nn.Module:
        """What the conversion made anew."""
        mixer: nn.Module = self.student.get_submodule("mixer")
        return mixer


@dataclass
class TeacherLayer:
    """What went through one layer of the teacher: tokens before and after, and what its mixer added."""

    before: Streams | None = None
    after: Streams | None = None
    added: list[Tensor] = field(default_factory=list)


def layer_pairs(teacher: M4VTransformer3DModel, student: M4VTransformer3DModel) -> list[LayerPair]:
    """Find the layers that were attention and are scans now; layers that keep attention beside a scan need no teacher.

    Raises:
        UserError: if the networks differ in anything but their mixers, or no layer was converted.
    """
    ours, theirs = student.settings, teacher.settings
    different = [
        f"{name} is {getattr(theirs, name)} in the teacher and {getattr(ours, name)} in the model"
        for name in DenoiserConfig.__dataclass_fields__
        if name not in _MAY_DIFFER and getattr(ours, name) != getattr(theirs, name)
    ]
    if different:
        raise UserError(
            f"The teacher is another network than the one that was converted: {'; '.join(different)}. Give the folder "
            "that m4v convert attention-to-mamba started from as match.teacher."
        )
    pairs = []
    if theirs.dual_mixer == "attention" and ours.dual_mixer == "mm_dim":
        both = zip(teacher.transformer_blocks, student.transformer_blocks, strict=True)
        pairs += [LayerPair(f"dual-{number:02d}", *blocks, number) for number, blocks in enumerate(both)]
    both = zip(teacher.single_transformer_blocks, student.single_transformer_blocks, strict=True)
    pairs += [
        LayerPair(f"single-{number:02d}", *blocks, number)
        for number, blocks in enumerate(both)
        if theirs.kinds[number] == "attention" and ours.kinds[number] == "mm_dim"
    ]
    if not pairs:
        raise UserError(
            f"No layer of the model replaces attention of the teacher: its mixer plan is {_named(ours)}, the teacher's "
            f"{_named(theirs)}. Start from a model made by m4v convert attention-to-mamba and give its source as "
            "match.teacher."
        )
    return pairs


def _named(settings: DenoiserConfig) -> str:
    plan = settings.mixer_plan
    return plan if isinstance(plan, str) else ", ".join(plan)


def matched_parts(pairs: Sequence[LayerPair], part: MatchPart) -> nn.ModuleDict:
    """Parts of the student that are trained, by layer: the new mixers, or their whole blocks."""
    return nn.ModuleDict({pair.name: pair.mixer if part == "mixer" else pair.student for pair in pairs})


class MatchingObjective:
    """Layer-wise matching on the clips, levels and units of a flow objective.

    Args:
        teacher: Network with attention; frozen by the caller.
        flow: Draws the batches and says what the denoiser is asked; its denoiser is the student.
        part: What is compared.

    Raises:
        UserError: as `layer_pairs`, or if ranks share the student's sequences.
    """

    def __init__(self, teacher: M4VTransformer3DModel, flow: PyramidFlowObjective, part: MatchPart) -> None:
        self.teacher = teacher
        self.student = flow.transformer
        self.flow = flow
        self.part = part
        self.pairs = layer_pairs(teacher, self.student)
        self._modules = {"matched": matched_parts(self.pairs, part)}
        if "build_context" in vars(self.student):
            raise UserError(
                "Layers are matched on whole sequences, but this denoiser shares its sequences with other ranks; set "
                "parallel.context to 1."
            )

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The new mixers, or their blocks."""
        return self._modules

    def batch(self, step: int) -> dict[str, Tensor]:
        """Take clips and captions as the flow objective does."""
        return self.flow.batch(step)

    def terms(self, batch: Mapping[str, Tensor], step: int) -> Iterator[LossTerm]:
        """Compare the layers of every column one after the other."""
        columns = self.flow.columns(step)
        for column in columns:
            inputs = self.flow.column_inputs(batch, column, step)
            seen = self.run_teacher(inputs)
            context = self._student_context(inputs)
            for pair in self.pairs:
                error = self._layer_error(pair, seen.pop(pair.name), context, inputs.text.mask)
                yield LossTerm(
                    loss=error,
                    weight=1.0 / (len(columns) * len(self.pairs)),
                    metrics={
                        f"loss/level-{column.level}": error.detach(),
                        f"loss/unit-{column.unit}": error.detach(),
                        f"match/{pair.name}": error.detach(),
                    },
                )

    @torch.no_grad()
    def run_teacher(self, inputs: ColumnInputs) -> dict[str, TeacherLayer]:
        """Ask the teacher, and note what went through its converted layers, by their names."""
        with _recorded(self.pairs) as seen, autocast(self.flow.use_bf16, self.flow.device):
            self.teacher(list(inputs.clips), inputs.timesteps, inputs.text)
        return seen

    def _student_context(self, inputs: ColumnInputs) -> SequenceContext:
        settings = self.student.settings
        layout = sequence_layout(inputs.clips, settings.patch_size, inputs.text.tokens.shape[1])
        with torch.no_grad(), autocast(self.flow.use_bf16, self.flow.device):
            embedding = self.student.time_text_embed(inputs.timesteps, inputs.text.pooled)
        return sequence_context(settings, layout, embedding, inputs.text.mask)

    def _layer_error(
        self, pair: LayerPair, seen: TeacherLayer, context: SequenceContext, text_mask: Bool[Tensor, "b l"]
    ) -> Float[Tensor, ""]:
        assert seen.before is not None
        assert seen.after is not None
        own = context.along(self.student.settings.scan_path(pair.number))
        text, video = seen.before
        valid = torch.cat([text_mask, text_mask.new_ones(video.shape[:2])], dim=1)[..., None]
        with autocast(self.flow.use_bf16, self.flow.device):
            if self.part == "mixer":
                found, wanted = _contribution(pair.student, text, video, own), torch.cat(seen.added, dim=1)
            else:
                # Both outputs hold the same input: taken away, only what the layer adds is left.
                same = torch.cat(seen.before, dim=1)
                found = torch.cat(pair.student(text, video, own), dim=1) - same
                wanted = torch.cat(seen.after, dim=1) - same
        wanted = torch.where(valid, wanted.float(), 0.0)
        error = torch.where(valid, found.float(), 0.0) - wanted
        return error.square().sum() / wanted.square().sum().clamp_min(_LEAST_POWER)

    def num_items(self, step: int) -> int:
        """Items per step."""
        return self.flow.num_items(step)

    def facts(self, step: int) -> Mapping[str, float]:
        """Image and video batches so far in this stage."""
        return self.flow.facts(step)


def _contribution(block: nn.Module, text: Tensor, video: Tensor, context: SequenceContext) -> Float[Tensor, "b n d"]:
    """What a block's mixer adds to text and video, before the gate."""
    if isinstance(block, SingleStreamBlock):
        shift, scale, _ = block.modulation(context.embedding)
        mixed = block.mixer(modulate(torch.cat([text, video], dim=1), shift, scale), context)
        return _through_joint(block, mixed)
    assert isinstance(block, DualMMDiMBlock)
    text_modulation, video_modulation = block.modulations(context)
    mixed_text, mixed_video = block.mixer(
        modulate(text, *text_modulation[:2]), modulate(video, *video_modulation[:2]), context
    )
    return torch.cat([block.text.to_out(mixed_text), block.video.to_out(mixed_video)], dim=1)


def _through_joint(block: SingleStreamBlock, mixed: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
    """The joint matrix takes the mixer's channels first, then the feed-forward's; the bias is neither's."""
    return F.linear(mixed, block.joint_out.weight[:, : mixed.shape[-1]])


@contextlib.contextmanager
def _recorded(pairs: Sequence[LayerPair]) -> Iterator[dict[str, TeacherLayer]]:
    """Note what goes through the teacher's layers while the context lasts."""
    seen = {pair.name: TeacherLayer() for pair in pairs}
    with contextlib.ExitStack() as hooks:
        for pair in pairs:
            _watch(pair.teacher, seen[pair.name], hooks)
        yield seen


def _watch(block: nn.Module, layer: TeacherLayer, hooks: contextlib.ExitStack) -> None:
    def note_block(module: nn.Module, inputs: tuple[Tensor, Tensor, SequenceContext], outputs: Streams) -> None:
        layer.before, layer.after = inputs[:2], outputs

    hooks.callback(block.register_forward_hook(note_block).remove)
    if isinstance(block, MMDiTBlock):

        def note_stream(module: nn.Module, inputs: tuple[Tensor], outputs: Tensor) -> None:
            layer.added.append(outputs)

        # Text first: the block finishes its streams in this order.
        for stream in (block.text, block.video):
            hooks.callback(stream.to_out.register_forward_hook(note_stream).remove)
    else:
        assert isinstance(block, SingleStreamBlock)

        def note_mixer(module: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
            layer.added.append(_through_joint(block, outputs))

        hooks.callback(block.mixer.register_forward_hook(note_mixer).remove)
