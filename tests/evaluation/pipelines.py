"""Stand-ins for a text-to-video pipeline whose scores are known beforehand."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from m4v.toybox.renderer import render
from m4v.toybox.splits import EvaluationPrompt, evaluation_prompts


@dataclass
class Output:
    frames: np.ndarray


@dataclass
class PerfectPipeline:
    """Answers every prompt with the render of its own scene, and remembers how it was called."""

    calls: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, prompt: list[str], **options: Any) -> Output:
        self.calls.append({"prompt": prompt, **options})
        lists = evaluation_prompts("xs")
        by_text = {item.text: item for item in (*lists.seen, *lists.held_out)}
        return Output(np.stack([self.answer(by_text[text]) for text in prompt]))

    def answer(self, prompt: EvaluationPrompt) -> np.ndarray:
        return render(prompt.scene).frames


class MirroredPipeline(PerfectPipeline):
    """Right in everything except left and right."""

    def answer(self, prompt: EvaluationPrompt) -> np.ndarray:
        return super().answer(prompt)[:, :, ::-1]


@dataclass
class NoisePipeline:
    """Answers with noise."""

    def __call__(self, prompt: list[str], *, generator: list[torch.Generator], **options: Any) -> Output:
        clips = [torch.randint(0, 256, (17, 64, 64, 3), generator=one, dtype=torch.uint8).numpy() for one in generator]
        return Output(np.stack(clips))
