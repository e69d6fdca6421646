"""What a model costs at a size, before anything is loaded: parameters, tokens, operations, memory."""

from dataclasses import dataclass

from m4v.analysis.flops import call_flops
from m4v.analysis.parameters import ParameterCount, denoiser_parameters
from m4v.analysis.tokens import tokens_by_unit, unit_layout
from m4v.core.config_io import to_plain
from m4v.core.shapes import LatentShape
from m4v.models.denoiser.config import DenoiserConfig

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True)
class Description:
    """Costs of a denoiser at one video size.

    Attributes:
        parameters: Counts by part.
        tokens: Text and video tokens, by unit and level.
        flops: Operations of one call for one sample, by unit and level.
        memory_bytes: `weights`, and `activations`: the largest tensors alive at once in the longest call, estimated as
            7 + mlp_ratio token-wide rows per token of a single-stream block (stream, modulated, projection,
            feed-forward, output).
    """

    parameters: ParameterCount
    tokens: list[list[int]]
    flops: list[list[float]]
    memory_bytes: dict[str, int]


def describe(
    config: DenoiserConfig, latent: LatentShape, *, num_text_tokens: int, dtype: str, batch_size: int = 1
) -> Description:
    """Describe a denoiser for a latent size.

    Args:
        dtype: "float32", "bfloat16" or "float16".
        batch_size: Rows in a call; classifier-free guidance doubles it.
    """
    parameters = denoiser_parameters(to_plain(config))
    tokens = tokens_by_unit(config, latent, num_text_tokens)
    flops = [
        [
            call_flops(config, unit_layout(config, latent, unit, level, num_text_tokens)).total
            for level in range(config.num_levels)
        ]
        for unit in range(latent.num_units)
    ]
    longest = max(max(row) for row in tokens)
    rows_alive = 7 + config.mlp_ratio
    memory = {
        "weights": parameters.total * BYTES[dtype],
        "activations": batch_size * longest * config.width * rows_alive * BYTES[dtype],
    }
    return Description(parameters=parameters, tokens=tokens, flops=flops, memory_bytes=memory)
