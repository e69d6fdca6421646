"""The mixer plan: which token mixer each single-stream block uses (Table 4), as data."""

from typing import Literal, get_args

from m4v.core.errors import UserError

MixerKind = Literal["attention", "mm_dim", "parallel"]
PlanName = Literal["attention-only", "full", "pre-half", "post-half", "interleaved", "parallel"]

PLAN_NAMES: tuple[str, ...] = get_args(PlanName)


def named_plan(name: str, num_layers: int) -> tuple[MixerKind, ...]:
    """Spell out a plan of the paper for a number of single-stream blocks.

    Raises:
        UserError: if the name is not one of Table 4.

    Source: Sec. 4.4 "Design of Model Structure", Table 4.
    """
    attention: MixerKind = "attention"
    mm_dim: MixerKind = "mm_dim"
    parallel: MixerKind = "parallel"
    first_half = num_layers // 2
    plans: dict[str, tuple[MixerKind, ...]] = {
        "attention-only": (attention,) * num_layers,
        "full": (mm_dim,) * num_layers,
        "pre-half": (mm_dim,) * first_half + (attention,) * (num_layers - first_half),
        "post-half": (attention,) * first_half + (mm_dim,) * (num_layers - first_half),
        "interleaved": tuple(attention if layer % 2 else mm_dim for layer in range(num_layers)),
        "parallel": (parallel,) * num_layers,
    }
    if name not in plans:
        raise UserError(f"mixer_plan is {name!r}; expected one of {', '.join(plans)} or one kind per layer.")
    return plans[name]


def resolve_plan(plan: str | list[str] | tuple[str, ...], num_layers: int) -> tuple[MixerKind, ...]:
    """Turn a plan name, or one kind per layer, into one kind per layer.

    Raises:
        UserError: on an unknown name or kind, or a list of the wrong length.
    """
    if isinstance(plan, str):
        return named_plan(plan, num_layers)
    if len(plan) != num_layers:
        raise UserError(f"mixer_plan has {len(plan)} entries, but the model has {num_layers} layers that take one.")
    resolved: list[MixerKind] = []
    for kind in plan:
        matching: list[MixerKind] = [known for known in get_args(MixerKind) if known == kind]
        if not matching:
            raise UserError(f"mixer_plan names {kind!r}; expected {', '.join(get_args(MixerKind))}.")
        resolved.extend(matching)
    return tuple(resolved)
