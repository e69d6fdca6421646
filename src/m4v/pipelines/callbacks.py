"""What a callback hands back after a solver step, checked before the loop goes on with it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from m4v.core.errors import UserError


def changed_tensors(returned: Any, latents: Tensor) -> dict[str, Any]:
    """Take over what a callback returned; nothing changes nothing.

    Args:
        returned: Its return value.
        latents: Those it was given.

    Raises:
        UserError: if it is no table, or its latents are not of the shape they had.
    """
    if returned is None:
        return {}
    if not isinstance(returned, Mapping):
        raise UserError(
            f"callback_on_step_end returned a {type(returned).__name__}; expected nothing, or a table such as "
            '{"latents": ...}.'
        )
    new = returned.get("latents", latents)
    if not isinstance(new, Tensor) or new.shape != latents.shape or not new.is_floating_point():
        found = f"{new.dtype} {list(new.shape)}" if isinstance(new, Tensor) else repr(new)
        raise UserError(
            f"callback_on_step_end returned latents that are {found}; expected {latents.dtype} {list(latents.shape)}, "
            "as it was given."
        )
    return dict(returned)
