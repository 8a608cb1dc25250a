"""The forms of what a run writes of itself, as far as the page of a study reads it."""

from __future__ import annotations

import math
from types import NoneType
from typing import Any

LARGEST = 2**63  # JSON has no end
NUMBER, MAYBE_NUMBER, MAYBE_TEXT = (int, float), (int, float, NoneType), (str, NoneType)
RECALLS = {"R@1": NUMBER, "R@5": NUMBER, "R@10": NUMBER}
JOB = {"seed?": (int, NoneType), "factors?": dict, "experiment?": MAYBE_TEXT, "commit?": MAYBE_TEXT}
PROGRESS = dict.fromkeys(("epoch?", "epochs?", "step?", "steps?", "best_dev_rsum?", "seconds_left?"), MAYBE_NUMBER)
PROGRESS |= {"state?": str, "updated?": NUMBER}
METRICS = {"rsum": NUMBER, "i2t": RECALLS, "t2i": RECALLS, "commit?": MAYBE_TEXT}
CAPTION = {"caption": str, "similarity": NUMBER, "right": bool}
RETRIEVAL = {"image": str, "picture": str, "i2t_rank": int, "top": [CAPTION]}
CONFUSION = {"image": str, "caption": str, "wrong_image": str, "wrong_caption": str, "gap": NUMBER}
INSPECTION = {
    "retrievals?": [RETRIEVAL],
    "confusions?": {str: [CONFUSION]},
    "pooling?": {str: {str: [NUMBER]}},
    "semantic?": {str: {"counts": [NUMBER], "edges": [NUMBER]}},
}


def fits(value: Any, form: Any) -> bool:
    """Whether a value of JSON has a form: types, [items], {str: values}, or {key: form, "optional?": form}.

    >>> fits({"rsum": 3, "more": None}, {"rsum": NUMBER, "seed?": int}), fits({"rsum": True}, {"rsum": NUMBER})
    (True, False)
    """
    if isinstance(form, list):
        return isinstance(value, list) and all(fits(item, form[0]) for item in value)
    if isinstance(form, dict) and str in form:
        return isinstance(value, dict) and all(fits(item, form[str]) for item in value.values())
    if isinstance(form, dict):
        return isinstance(value, dict) and all(_has(value, key, own) for key, own in form.items())
    if (isinstance(value, float) and not math.isfinite(value)) or (isinstance(value, int) and abs(value) > LARGEST):
        return False
    return isinstance(value, form) and (not isinstance(value, bool) or form is bool)


def _has(value: dict[str, Any], key: str, form: Any) -> bool:
    name = key.removesuffix("?")
    return fits(value[name], form) if name in value else key.endswith("?")
