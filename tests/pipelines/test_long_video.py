"""A video ten times as long, looking back on a fixed window: in proportion of operations, in the same memory."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from m4v.analysis.live_memory import LiveTensors
from m4v.pipelines.m4v_pipeline import M4VPipeline
from tests.pipelines.debug_parts import debug_pipeline


def cost(pipeline: M4VPipeline, num_frames: int) -> tuple[int, int]:
    """Operations, and the most bytes of tensors alive at once beside the finished frames; weights included."""
    with LiveTensors() as memory, FlopCounterMode(display=False) as counter:
        memory.add([list(part.parameters()) for part in pipeline.components.values() if hasattr(part, "parameters")])
        options = {"num_inference_steps": 1, "seed": 0, "history_window": 2, "decode_last": True}
        made = sum(frames.shape[1] for frames in pipeline.stream("a red ball", num_frames=num_frames, **options))
    assert made == num_frames
    return counter.get_total_flops(), memory.peak


@torch.no_grad()
def test_ten_times_the_frames_take_ten_times_the_operations_and_no_more_memory() -> None:
    pipeline = debug_pipeline()
    short_operations, short_bytes = cost(pipeline, 9)
    long_operations, long_bytes = cost(pipeline, 89)
    assert 8 * short_operations < long_operations < 11 * short_operations
    assert long_bytes <= 1.05 * short_bytes
