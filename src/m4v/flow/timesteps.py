"""Random choice of the training timestep (Sec. 3.1: uniform inside the trained level)."""

from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from m4v.core.generators import RowGenerator, draw
from m4v.flow.schedule import PyramidSchedule


def sample_timestep_index(schedule: PyramidSchedule, batch: int, generator: RowGenerator) -> Int[Tensor, " b"]:
    """Draw one uniform row of the timestep table per sample, on the generator's device."""
    return draw(partial(torch.randint, schedule.config.num_train_timesteps), (batch,), generator)
