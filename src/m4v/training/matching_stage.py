"""The stage between conversion and training as a whole: new mixers learn what attention did (Appendix D.2)."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from m4v.checkpoints.resolve import resolve_model
from m4v.core.errors import UserError
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.training.flow_objective import PyramidFlowObjective
from m4v.training.loop import Objective
from m4v.training.matching_config import MatchStageConfig
from m4v.training.matching_objective import MatchingObjective, layer_pairs, matched_parts
from m4v.training.networks import Networks
from m4v.training.stages import FlowStageRun


def load_teacher(name: str) -> M4VTransformer3DModel:
    """Load the denoiser with attention, frozen.

    Args:
        name: Model folder, run folder or bundled name.

    Raises:
        UserError: if there is none, or it is not a pyramid denoiser.
    """
    folder = Path(name)
    folder = folder / "export" if (folder / "export").is_dir() else resolve_model(name)
    if not (folder / "transformer" / "config.json").is_file():
        raise UserError(f"match.teacher is {name}, which holds no transformer/; give the model folder with attention.")
    kind = M4VTransformer3DModel.load_config(folder / "transformer").get("_class_name")
    if kind != M4VTransformer3DModel.__name__:
        raise UserError(
            f"match.teacher is {name}, a {kind}; layers are matched on the pyramid base (M4VTransformer3DModel) only. "
            "Train a converted Wan2.1 model as a whole."
        )
    try:
        teacher = M4VTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
    except OSError as error:
        raise UserError(f"The teacher in {folder} cannot be loaded: {error}") from error
    return teacher.requires_grad_(False).eval()


class MatchStageRun(FlowStageRun):
    """Trains the mixers that replaced attention, or their blocks, on the teacher's own layers; all else is frozen."""

    @property
    def stage(self) -> MatchStageConfig:
        """Settings."""
        return self.bench.config.match

    def choose_trained(self, networks: Networks) -> Mapping[str, nn.Module]:
        """Pick the converted layers' mixers, or the layers.

        Raises:
            UserError: if no teacher is named, or it does not fit the model.
        """
        if self.stage.teacher is None:
            raise UserError("The match stage needs its teacher: --match.teacher FOLDER, the model that was converted.")
        self.teacher = load_teacher(self.stage.teacher).to(self.bench.device)
        pairs = layer_pairs(self.teacher, networks.transformer)
        return {"matched": matched_parts(pairs, self.stage.part)}

    def make_objective(self, use_bf16: bool) -> Objective:
        """Match layers on the bank."""
        flow = super().make_objective(use_bf16)
        assert isinstance(flow, PyramidFlowObjective)
        return MatchingObjective(self.teacher, flow, self.stage.part)
