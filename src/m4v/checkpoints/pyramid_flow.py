"""A Pyramid-Flow checkpoint to our model folder: same network, other names, nothing recomputed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch

from m4v.checkpoints.conversion_report import ConversionReport
from m4v.checkpoints.converted_folder import require_new_target, write_record
from m4v.checkpoints.json_tables import read_json, write_json
from m4v.checkpoints.model_card import MODEL_CARD
from m4v.checkpoints.model_folder import MODEL_INDEX
from m4v.checkpoints.pyramid_flow_networks import ConvertedNetwork, open_denoiser, open_vae
from m4v.checkpoints.pyramid_flow_root import (
    PART_FOLDERS,
    PyramidFlowCheckpoint,
    generation_defaults,
)
from m4v.checkpoints.pyramid_flow_text import ENCODERS, bring_text_part, copied_bytes, text_class
from m4v.checkpoints.tensor_files import open_tensors, write_shards
from m4v.checkpoints.tensor_recipes import make_tensors
from m4v.core.files import atomic_path, require_free_space
from m4v.flow.scheduler import PyramidFlowScheduler

CONVERSION = "pyramid-flow"
"""What `conversion.json` calls it."""

_CARD = """\
# {name}

The attention-only network of Pyramid-Flow ({variant}), with the tensor names of the `m4v` package. The
licence of the original weights applies.

```
m4v generate "a sentence" --model {name}
```

`m4v convert pyramid-flow --reverse` writes the original files again.
"""

Advance = Callable[[str, int, int], None]
"""Told the part being written, how many tensors of it are written, and how many there are."""


@dataclass(frozen=True)
class PyramidFlowConversion:
    """A checkpoint that has been read and checked; `write` makes the model folder.

    Attributes:
        checkpoint: Where everything lies.
        networks: The denoiser, and the autoencoder if it is there.
        text_parts: Folders of text encoders and tokenizers, by part.
    """

    checkpoint: PyramidFlowCheckpoint
    networks: Mapping[str, ConvertedNetwork]
    text_parts: Mapping[str, Path]

    @classmethod
    def open(cls, checkpoint: PyramidFlowCheckpoint, dtype: torch.dtype | None = None) -> "PyramidFlowConversion":
        """Read names, shapes and configurations of a checkpoint and check that they belong together.

        Args:
            checkpoint: What `find_checkpoint` found.
            dtype: Precision of the written networks; None keeps that of every tensor.

        Raises:
            UserError: naming what is wrong, missing or of another kind.
        """
        networks = {"transformer": open_denoiser(checkpoint.transformer, checkpoint.transformer_config, dtype)}
        if "vae" in checkpoint.parts:
            networks["vae"] = open_vae(checkpoint.parts["vae"], dtype)
        text_parts = {part: folder for part, folder in checkpoint.parts.items() if part != "vae"}
        for part, folder in text_parts.items():
            if part in ENCODERS:
                read_json(folder / "config.json")
                open_tensors(folder)
        return cls(checkpoint, networks, text_parts)

    def write(self, target: Path, on_progress: Advance | None = None) -> dict[str, ConversionReport]:
        """Write the model folder, whole or not at all.

        Args:
            target: New folder, or that of an older model, which is replaced in the end.
            on_progress: Told after every tensor.

        Returns:
            What became of every tensor, by network.

        Raises:
            UserError: if the place holds something else, is full or cannot be written.
        """
        require_new_target(self.checkpoint.source, target)
        num_bytes = sum(network.nbytes for network in self.networks.values())
        encoders = [folder for part, folder in self.text_parts.items() if part in ENCODERS]
        require_free_space(target, num_bytes + sum(copied_bytes(folder, target) for folder in encoders))
        reports: dict[str, ConversionReport] = {}
        with atomic_path(target) as temporary:
            temporary.mkdir()
            for part, network in self.networks.items():
                reports[part] = _write_network(temporary / part, network, _for_part(on_progress, part))
            for part, folder in self.text_parts.items():
                bring_text_part(folder, temporary / part)
            PyramidFlowScheduler().save_pretrained(temporary / "scheduler")
            write_json(temporary / MODEL_INDEX, self._index())
            card = _CARD.format(name=target.resolve().name, variant=self.checkpoint.variant)
            (temporary / MODEL_CARD).write_text(card, encoding="utf-8")
            write_record(temporary, self._record(reports))
        return reports

    def _index(self) -> dict[str, Any]:
        classes: dict[str, list[str | None]] = {
            part: [type(network.module).__module__, type(network.module).__name__]
            for part, network in self.networks.items()
        }
        classes |= {part: ["transformers", text_class(part, folder)] for part, folder in self.text_parts.items()}
        return {
            "_class_name": "M4VPipeline",
            "_diffusers_version": diffusers.__version__,
            **{part: classes.get(part, [None, None]) for part in PART_FOLDERS},
            "transformer": classes["transformer"],
            "scheduler": [PyramidFlowScheduler.__module__, PyramidFlowScheduler.__name__],
            "defaults": generation_defaults(self.checkpoint.variant),
        }

    def _record(self, reports: Mapping[str, ConversionReport]) -> dict[str, Any]:
        return {
            "conversion": CONVERSION,
            "variant": self.checkpoint.variant,
            "originals": {part: network.original.to_plain() for part, network in self.networks.items()},
            "networks": {part: report.to_plain() for part, report in reports.items()},
        }


def _write_network(
    folder: Path, network: ConvertedNetwork, on_progress: Callable[[int, int], None] | None
) -> ConversionReport:
    folder.mkdir()
    network.module.save_config(folder)
    return make_tensors(network.recipes, network.source, folder, partial(write_shards, folder), on_progress)


def _for_part(on_progress: Advance | None, part: str) -> Callable[[int, int], None] | None:
    return None if on_progress is None else lambda done, total: on_progress(part, done, total)
