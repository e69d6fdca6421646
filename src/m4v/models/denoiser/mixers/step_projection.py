"""The projection that makes step sizes, a linear layer whose weights may be wider than its tokens."""

from jaxtyping import Float
from torch import Tensor, nn

from m4v.ops.precise_linear import precise_linear


class StepProjection(nn.Linear):
    """Step sizes of every head, before bias and softplus, in the precision of the weights.

    Its weights stay in fp32 whatever the precision of the model: see `_keep_in_fp32_modules` of the denoisers.
    """

    def forward(self, input: Float[Tensor, "*n d"]) -> Float[Tensor, "*n g"]:
        return precise_linear(input, self.weight, self.bias)
