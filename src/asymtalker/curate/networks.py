"""Which of the published networks that a recipe wants are at hand."""

import sys

from asymtalker.curate.quality import check_dover
from asymtalker.curate.recipe import Recipe
from asymtalker.errors import UserError
from asymtalker.media.registry import REGISTRY, fetch_file


def check_networks(recipe: Recipe) -> dict[str, str]:
    """Why each of the networks that the recipe wants and can't have is not there, which is said.

    Raises:
        UserError: if one is not there and the recipe says to stop.
    """
    without = {}
    for name in recipe.networks:
        try:
            if name in REGISTRY:
                fetch_file(name)
            else:
                check_dover(recipe)
        except UserError as error:
            without[name] = str(error)
    if without and recipe.missing == "stop":
        raise UserError(" ".join(f"The recipe needs {name}: {why}" for name, why in without.items()))
    for name, why in without.items():
        print(f"without {name}: {why}", file=sys.stderr, flush=True)
    return without
