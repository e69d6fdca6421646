"""Nothing inside a solver step makes the host wait for the device, once a level has begun."""

from collections import Counter
from typing import Any

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from m4v.flow.self_quality import SelfQualityGuidance
from m4v.pipelines.m4v_pipeline import M4VPipeline
from tests.pipelines.debug_parts import debug_pipeline
from tests.pipelines.wan_parts import wan_pipeline

# Reading a number, sizes that depend on values, and Python numbers that become tensors (which are copied to a device).
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "lift_fresh"}


class Watch(TorchDispatchMode):
    """Counts waits per solver step."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[Counter[str]] = [Counter()]

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in WAITS:
            self.waits[-1][name] += 1
        return function(*args, **(kwargs or {}))

    def next_step(self, pipe: Any, step: int, timestep: float, tensors: dict[str, Tensor]) -> None:
        """A callback."""
        self.waits.append(Counter())


@pytest.mark.parametrize(
    "guidance",
    [{}, {"self_guidance_scale": SelfQualityGuidance(weight=0.5, first_unit=1)}],
    ids=["plain", "self-quality"],
)
def test_later_steps_of_a_level_do_not_wait(guidance: dict[str, Any]) -> None:
    pipeline: M4VPipeline = debug_pipeline()
    # First frames in statistics of their own, channel by channel, which self-quality guidance has to convert.
    pipeline.vae.register_to_config(image_shift=[0.1, 0.2, 0.3, 0.4], image_scale=[1.0, 1.1, 1.2, 1.3])
    with Watch() as watch:
        pipeline(
            "a red ball",
            num_frames=9,
            num_inference_steps=4,
            seed=0,
            output_type="latent",
            callback_on_step_end=watch.next_step,
            **guidance,
        )
    steps = watch.waits[: 3 * 3 * 4]
    assert len(watch.waits) == len(steps) + 1
    assert [dict(waits) for number, waits in enumerate(steps) if number % 4] == [{}] * (3 * 3 * 3)
    assert any(steps), "the first steps bind prompts, which does read numbers: the watch sees nothing"


def test_wan_s_own_part_of_a_step_does_not_wait() -> None:
    pipeline = wan_pipeline(mixer_plan="full", scheduler="euler")
    with Watch() as watch:
        list(
            pipeline.stream(
                "a red ball", num_inference_steps=4, seed=0, output_type="latent", callback_on_step_end=watch.next_step
            )
        )
    # Every step, diffusers' loop reads its schedule (on the host); and nothing more often than in the second step.
    assert watch.waits[2] == watch.waits[3]
    stock_reads = sum(watch.waits[2].values())
    assert stock_reads <= 4
