"""Recipes by name; all of them import without torch."""

from collections.abc import Callable

from m4v.core.errors import UserError
from m4v.recipes import toybox_m, toybox_xs
from m4v.recipes.debug import debug
from m4v.recipes.finetune import finetune
from m4v.training.config import RunConfig

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "debug": debug,
    "toybox-xs": toybox_xs.chain,
    "toybox-xs-vae": toybox_xs.vae,
    "toybox-xs-t2i": toybox_xs.t2i,
    "toybox-xs-t2v": toybox_xs.t2v,
    "toybox-m": toybox_m.chain,
    "toybox-m-vae": toybox_m.vae,
    "toybox-m-t2i": toybox_m.t2i,
    "toybox-m-t2v": toybox_m.t2v,
    "finetune": finetune,
}


def list_recipes() -> dict[str, str]:
    """Names of all recipes, each with one line about it."""
    return {name: (recipe.__doc__ or "").strip().splitlines()[0] for name, recipe in RECIPES.items()}


def get_recipe(name: str) -> RunConfig:
    """Return a complete run configuration.

    Raises:
        UserError: if there is no such recipe.
    """
    if name not in RECIPES:
        raise UserError(f"There is no recipe {name!r}; expected one of {', '.join(RECIPES)}.")
    return RECIPES[name]()
