"""Options of earlier versions that this one no longer has, and that their checkpoints still name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from threeshnet.errors import Problems

LAST = "ae0343b"  # the last commit that has the arguments; experiments/options has what each was worth
ARGUMENTS = ("real_rows", "places", "residual")  # of parts that are still there; off was None or False
PARTS = {  # and the last commit that has each
    "threeshnet.fusion.embedded_places.": LAST,
    "threeshnet.fusion.box_knowledge.BoxClasses": LAST,
    "threeshnet.fusion.box_knowledge.BoxBinding": "aa0546d",  # experiments/where
    "threeshnet.pooling.summed.": LAST,
}


def without_removed(recipe: Any, problems: Problems) -> Any:
    """`recipe` without the arguments of removed options that were off: the same model, with the same weights.

    Options that were on are added to `problems`, with the commit that can still read the checkpoint.
    """
    if isinstance(recipe, list | tuple):
        return [without_removed(item, problems) for item in recipe]
    if not isinstance(recipe, Mapping):
        return recipe
    target = str(recipe.get("_target_", ""))
    removed = [(f"{key}={recipe[key]}", LAST) for key in ARGUMENTS if target and recipe.get(key) not in (None, False)]
    removed += [(target, last) for part, last in PARTS.items() if target.startswith(part)]
    problems.extend(
        f"{name} was removed; commit {last} is the last one that can read this checkpoint" for name, last in removed
    )
    kept = {key: value for key, value in recipe.items() if not target or key not in ARGUMENTS}
    return {key: without_removed(value, problems) for key, value in kept.items()}
