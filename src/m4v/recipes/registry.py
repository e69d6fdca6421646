"""Recipes by name; all of them import without torch."""

from collections.abc import Callable

from m4v.core.errors import UserError
from m4v.recipes import paper_pyramid, paper_wan, toybox_m, toybox_reward, toybox_stages, toybox_xs
from m4v.recipes.debug import debug
from m4v.recipes.finetune import finetune
from m4v.training.config import RunConfig

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "debug": debug,
    "finetune": finetune,
    "toybox-xs": toybox_xs.chain,
    "toybox-xs-vae": toybox_xs.vae,
    "toybox-xs-t2i": toybox_xs.t2i,
    "toybox-xs-t2v": toybox_xs.t2v,
    "toybox-xs-reward": toybox_reward.reward,
    "toybox-m": toybox_m.chain,
    "toybox-m-vae": toybox_m.vae,
    "toybox-m-t2i": toybox_m.t2i,
    "toybox-m-t2v": toybox_m.t2v,
    "toybox-attention-base": toybox_stages.attention_base,
    "toybox-match": toybox_stages.match,
    "toybox-convert": toybox_stages.convert,
    "toybox-t2i": toybox_stages.t2i,
    "toybox-t2v-short": toybox_stages.t2v_short,
    "toybox-t2v-long": toybox_stages.t2v_long,
    "toybox-t2v-large": toybox_stages.large,
    "toybox-t2v-large-long": toybox_stages.large_long,
    "toybox-quality": toybox_stages.quality,
    "toybox-reward": toybox_stages.reward,
    "toybox-wan-short": toybox_stages.wan_short,
    "toybox-wan-long": toybox_stages.wan_long,
    "toybox-ablation": toybox_stages.ablation,
    "paper-attention-base-384p": paper_pyramid.attention_base,
    "paper-convert-384p": paper_pyramid.convert,
    "paper-t2i-384p": paper_pyramid.t2i,
    "paper-t2v-57f-384p": paper_pyramid.t2v_2s,
    "paper-t2v-121f-384p": paper_pyramid.t2v_5s,
    "paper-t2v-121f-768p": paper_pyramid.large_5s,
    "paper-t2v-241f-768p": paper_pyramid.large_10s,
    "paper-quality-768p": paper_pyramid.quality,
    "paper-reward-768p": paper_pyramid.reward,
    "paper-wan-480p": paper_wan.wan_480p,
    "paper-wan-720p": paper_wan.wan_720p,
    "paper-ablation-121f-384p": paper_pyramid.ablation,
}
"""In the order in which they are trained: the small models, the paper's stages in toybox size, then in its own."""


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
