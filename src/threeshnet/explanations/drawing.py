"""The picture of an explanation, from the panels of the highlight pictures."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from threeshnet.evaluation import panels
from threeshnet.evaluation.pictures import PHOTO_SIDE, Attention, Highlight, laid_out, panel_rows
from threeshnet.explanations.explanation import EXPLANATION, Explanation


def drawn(explanation: Explanation, photo: Image.Image) -> Image.Image:
    """The photo, the heat with the places named first, the segmentation, then VSeM's weights and VSpM's map."""
    small = photo.convert("RGB")
    small.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
    pixels = np.asarray(small)
    heat = explanation.heat(small.size)
    named = [each.place.box for each in explanation.named if each.place.box is not None]
    branches = list(_branches(explanation))
    rows = panel_rows(Highlight("", pixels, explanation.seg_map, explanation.class_names, branches, (), candidates=0))
    if explanation.shown_as == EXPLANATION:
        rows[0].insert(1, lambda above, below: panels.contributions(above, below, pixels, heat, named))
    figure = laid_out(rows, pixels.shape[0] / pixels.shape[1], lambda letters: _lines(explanation, letters))
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _lines(explanation: Explanation, letters: int) -> list[tuple[str, str]]:
    first, *others = textwrap.wrap(explanation.sentence, letters) or [""]
    remark = textwrap.wrap(explanation.remark, letters)
    return [(f"{explanation.score:.3f}", first), *(("", line) for line in [*others, *remark])]


def _branches(explanation: Explanation) -> list[Attention]:
    """What VSeM and VSpM did; the map is that of the tokens named first, where there are any."""
    attentions = []
    for source, guide in explanation.guidance.items():
        of_regions, boxes = source == "regions", guide.boxes
        kind = "region" if of_regions else "cell"
        maps = [each.attention for each in explanation.named if each.place.kind == kind and each.attention is not None]
        title = f"{kind}s named first" if maps else f"mean of {kind}s"
        cells = None if boxes is None or of_regions else (len({*boxes[:, 1]}), len({*boxes[:, 0]}))
        attentions.append(
            Attention(
                title=title,
                boxes=boxes if of_regions else None,
                grid_size=cells if boxes is not None and cells and cells[0] * cells[1] == len(boxes) else None,
                semantic=guide.weights,
                spatial=np.mean(maps, axis=0) if maps else guide.attention,
            )
        )
    return attentions
