"""Pieces of generation as the benchmark times them: one evaluation of a level, and the whole loop."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from m4v.analysis.bench.networks import pyramid_call
from m4v.analysis.tokens import unit_layout
from m4v.core.shapes import LatentShape
from m4v.core.text_conditioning import TextConditioning
from m4v.flow.config import PyramidFlowConfig
from m4v.flow.guidance import ClassifierFreeGuidance
from m4v.flow.schedule import PyramidSchedule
from m4v.models.denoiser.conditions import with_shared_conditions
from m4v.models.denoiser.config import DenoiserConfig
from m4v.pipelines.graph_replay import MAX_GRAPH_TOKENS, CudaRecorder, GraphReplay
from m4v.pipelines.guided_velocity import classifier_free_predictor
from m4v.pipelines.noise import NoiseSource
from m4v.pipelines.unit_loop import LoopSettings, UnitRequest, generate_units

_MANY = 1000


@dataclass(frozen=True, kw_only=True)
class VideoSetup:
    """What is generated, and how.

    Attributes:
        config: Of any of the networks compared; they share sizes.
        latent: Latent size of a frame; its number of units does not matter.
        num_text_tokens: Length of the padded prompt.
        settings: Steps, guidance, window.
        device: Where.
        dtype: Of the network.
    """

    config: DenoiserConfig
    latent: LatentShape
    num_text_tokens: int
    settings: LoopSettings
    device: torch.device
    dtype: torch.dtype

    def text(self) -> TextConditioning:
        """A prompt that fills its length."""
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randn(1, self.num_text_tokens, self.config.text_dim, generator=generator)
        pooled = torch.randn(1, self.config.pooled_text_dim, generator=generator)
        mask = torch.ones(1, self.num_text_tokens, dtype=torch.bool)
        return TextConditioning(tokens, mask, pooled).to(self.device, self.dtype)

    def graphs(self, network: Any) -> GraphReplay | None:
        """Device graphs, as a pipeline uses them."""
        if self.device.type != "cuda":
            return None
        cells = MAX_GRAPH_TOKENS * self.config.patch_size**2
        return GraphReplay(network, CudaRecorder(self.device), max_cells=cells)

    @torch.no_grad()  # nothing is recorded where gradients are
    def evaluation(self, network: Any, unit: int, level: int, graphs: GraphReplay | None) -> Callable[[], Tensor]:
        """One evaluation with guidance, called as the loop calls it at every step of a level."""
        layout = unit_layout(
            self.config, self.latent, unit, level, self.num_text_tokens, window=self.settings.history_window
        )
        call = pyramid_call(self.config, layout, batch_size=1, dtype=torch.float32, device=self.device)
        text = self.text()
        predict = classifier_free_predictor(
            with_shared_conditions(network, network),
            text,
            text,
            call.clips[:-1],
            level,
            ClassifierFreeGuidance(self.settings.guidance.for_unit(unit).scale),
            graphs,
            _MANY,
        )
        latents = call.clips[-1].latents

        @torch.no_grad()
        def run() -> Tensor:
            return predict(latents, 500.0)

        return run

    @torch.no_grad()
    def generate(self, network: Any, num_units: int) -> float:
        """Run the whole loop; returns seconds."""
        shape = replace(self.latent, num_units=num_units)
        text = self.text()
        request = UnitRequest(
            shape=shape,
            num_channels=self.config.in_channels,
            noise=NoiseSource([torch.Generator().manual_seed(0)], 1),
            text=text,
            negative_text=text,
        )
        schedule = PyramidSchedule.from_config(PyramidFlowConfig.with_equal_levels(self.config.num_levels))
        graphs = self.graphs(network)
        self._wait()
        start = time.perf_counter()
        for _ in generate_units(network, schedule, request, self.settings, graphs=graphs):
            pass
        self._wait()
        seconds = time.perf_counter() - start
        if graphs is not None:
            graphs.close()
        return seconds

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
