"""Explanations: shares that sum up, deletions as the plain loop makes them, drawn and printed by the command."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiments.explanations import run
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from threeshnet import Retriever
from threeshnet.batches.tokenizers import SPECIALS, Wordpieces
from threeshnet.cli.explain import cells
from threeshnet.encoders.hybrid import HybridEncoder
from threeshnet.encoders.model import RetrievalModel
from threeshnet.explanations.contributions import (
    NAMED,
    DeletionTest,
    by_place,
    deletion_test,
    effects,
    ranked,
    shares,
)
from threeshnet.explanations.explain import explain
from threeshnet.explanations.explanation import Contribution, Explanation, pixels
from threeshnet.explanations.places import PHOTO, Place, tokens_of
from threeshnet.nn.masking import unit
from threeshnet.pooling.generalized import GeneralizedPooling
from threeshnet.pooling.maximum import MaximumPooling
from threeshnet.pooling.mean import MeanPooling
from threeshnet.records import MAP_SIDE, VOID, ImageBatch, TokenSet

from .test_encoders import DIM, WORDS, bert, image_batch, image_encoder

ROOT = Path(__file__).parents[2]
POOLINGS = {"generalized": GeneralizedPooling, "mean": MeanPooling, "maximum": MaximumPooling}


@cache
def model_of(kind: str, pooling: str = "generalized") -> RetrievalModel:
    def branch(source: str) -> nn.Module:
        return image_encoder(source, pooling=POOLINGS[pooling]())

    image: Any = branch("regions" if kind == "region" else "grid")
    if kind == "hybrid":
        image = HybridEncoder(branches={"region": branch("regions"), "grid": branch("grid")}, weights={"grid": 0.6})
    return RetrievalModel(image_encoder=image, text_encoder=bert(), tokenizer=Wordpieces([*SPECIALS, *WORDS])).eval()


def photo(regions: int, padding: int = 0, seed: int = 0) -> ImageBatch:
    """One photo with a 2x2 grid, and padding that must not be seen."""
    images = image_batch([regions, regions + padding], seed)
    boxes = torch.rand(2, regions + padding, 2, 2, dtype=torch.float64).sort(dim=2).values.flatten(2)
    one: Any = [TokenSet(*(t[:1] for t in part)) if isinstance(part, tuple) else part[:1] for part in images[:5]]
    one[0] = one[0]._replace(values=one[0].values.masked_fill(~one[0].mask.unsqueeze(-1), 1e3))
    return ImageBatch(*one, region_boxes=boxes[:1])


def text_of(seed: int = 0) -> Tensor:
    return unit(torch.randn(DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


KINDS = ("region", "grid", "hybrid")
cases = st.tuples(st.sampled_from(KINDS), st.integers(1, 6), st.integers(0, 3), st.integers(0, 9))


# ---- the share


@examples(max_examples=8)
@given(cases, st.sampled_from(sorted(POOLINGS)))
def test_shares_sum_to_the_similarity(case: tuple[str, int, int, int], pooling: str) -> None:
    kind, regions, padding, seed = case
    model, images, text = model_of(kind, pooling), photo(regions, padding, seed), text_of(seed)
    tokens = tokens_of(model, images)
    similarity = float(model.image_encoder(images)[0].detach() @ text)
    found = shares(tokens, text)
    assert sum(float(share.sum()) for share in found) == pytest.approx(similarity, abs=1e-6)
    assert float(by_place(tokens, found).sum()) == pytest.approx(similarity, abs=1e-6)
    assert effects(tokens, text)[0] == pytest.approx(similarity, abs=1e-9)
    for share, branch in zip(found, tokens.branches, strict=True):
        assert not share[~branch.tokens.mask[0]].any()


@examples(max_examples=6)
@given(cases)
def test_the_sort_is_followed(case: tuple[str, int, int, int]) -> None:
    """Each value of each channel with the weight of its position, in a plain loop."""
    kind, regions, padding, seed = case
    model, text = model_of(kind), text_of(seed)
    tokens = tokens_of(model, photo(regions, padding, seed))
    plain, pooled = [], []
    for branch in tokens.branches:
        mask, pooling = branch.tokens.mask[0], branch.pooling
        assert isinstance(pooling, GeneralizedPooling)
        channels = branch.tokens.values[0].T.tolist()
        weights = pooling.weights(mask.sum()[None], len(mask))[0].tolist()
        for channel, values in enumerate(channels):
            order = sorted((n for n in range(len(mask)) if mask[n]), key=lambda n: -values[n])
            at = {n: [p for p, other in enumerate(order) if values[other] == values[n]] for n in order}  # or their like
            means = {n: sum(weights[position] for position in found) / len(found) for n, found in at.items()}
            channels[channel] = [means.get(n, 0.0) * value for n, value in enumerate(values)]
        parts = torch.tensor(channels, dtype=torch.float64).T
        pooled.append(branch.weight * unit(parts.sum(dim=0)))
        plain.append(branch.weight * parts / parts.sum(dim=0).norm() @ text)
    whole = torch.stack(pooled).sum(dim=0).norm()
    for share, expected in zip(shares(tokens, text), plain, strict=True):
        torch.testing.assert_close(share, expected / whole, atol=1e-6, rtol=0)


class Root(nn.Module):
    """No weighted sum of the values."""

    def forward(self, tokens: TokenSet) -> Tensor:
        return (tokens.values.exp() * tokens.mask.unsqueeze(-1)).sum(dim=1).log()


def test_no_share_is_claimed_where_pooling_is_no_weighted_sum() -> None:
    encoder = image_encoder(pooling=Root())
    model = RetrievalModel(image_encoder=encoder, text_encoder=bert(), tokenizer=Wordpieces([*SPECIALS, *WORDS]))
    found = explain(model.eval(), photo(4), "a red bike")
    assert {each.share for each in found.contributions} == {None}
    assert all(not each.shares for each in found.contributions)
    assert found.contributions[0].effect >= found.contributions[-1].effect


# ---- deletion


@examples(max_examples=8)
@given(cases, st.sampled_from(sorted(POOLINGS)))
def test_a_deletion_is_a_set_without_the_tokens(case: tuple[str, int, int, int], pooling: str) -> None:
    kind, regions, padding, seed = case
    model, text = model_of(kind, pooling), text_of(seed)
    tokens = tokens_of(model, photo(regions, padding, seed))
    keep = torch.rand(70, len(tokens.places), generator=torch.Generator().manual_seed(seed)) < 0.7  # more than a batch
    for row, found in list(zip(keep, tokens.embeddings(keep), strict=True))[::9]:
        vectors = []
        for branch in tokens.branches:
            kept = torch.stack([row[place] for place in branch.places]) & branch.tokens.mask[0]
            values = branch.tokens.values[:, kept]
            mask = torch.ones(values.shape[:2], dtype=torch.bool)
            pooled = unit(branch.pooling(TokenSet(values, mask)))[0] if kept.any() else torch.zeros(DIM)
            vectors.append(branch.weight * pooled)
        expected = vectors[0] if len(vectors) == 1 else unit(torch.stack(vectors).sum(dim=0))
        torch.testing.assert_close(found, expected.to(found), atol=1e-9, rtol=0)
    assert effects(tokens, text)[1].shape == (len(tokens.places),)


def test_a_deleted_region_is_a_region_that_was_never_there() -> None:
    """Encoding the photo without the region costs the same: with the sigmoid, no token reads another."""
    model, images, text = model_of("region"), photo(4), text_of()
    tokens = tokens_of(model, images)
    score, lost = effects(tokens, text)
    for number, place in enumerate(tokens.places):
        if place.kind == "region":
            mask = images.regions.mask.clone()
            mask[0, place.number] = False
            without = model.image_encoder(images._replace(regions=TokenSet(images.regions.values, mask)))[0] @ text
            assert score - float(without.detach()) == pytest.approx(float(lost[number]), abs=1e-9)


def test_the_test_of_an_order_is_the_cost_of_its_first_places() -> None:
    tokens, text = tokens_of(model_of("hybrid"), photo(5)), text_of()
    score, lost = effects(tokens, text)
    order = ranked(tokens, lost)
    assert [tokens.places[place].kind == PHOTO for place in order] == [False] * (len(tokens.places) - 1)
    assert lost[order].tolist() == sorted(lost[order].tolist(), reverse=True)
    keep = torch.ones(1, len(tokens.places), dtype=torch.bool)
    keep[0, order[:NAMED]] = False
    found = deletion_test(tokens, text, order)
    assert found is not None
    assert found.named == pytest.approx(score - float(tokens.embeddings(keep)[0].detach() @ text), abs=1e-9)
    assert found == deletion_test(tokens, text, order)
    assert found.random != deletion_test(tokens, text, order, seed=1).random
    assert deletion_test(tokens, text, order[:NAMED]) is None
    assert DeletionTest.of(0.2, [0.1, 0.2, -0.1, 0.4]) == DeletionTest(0.2, pytest.approx(0.15), 0.5)
    assert DeletionTest(0.31, 0.1, 0.95).passed
    assert DeletionTest(0.1, -0.5, 1.0).passed
    assert not DeletionTest(0.29, 0.1, 1.0).passed
    assert not DeletionTest(0.31, 0.1, 0.94).passed
    assert not DeletionTest(-0.1, -0.5, 1.0).passed


# ---- places


def test_a_cell_of_the_grid_and_of_the_scene_are_one_place_where_they_are_one_part_of_the_photo() -> None:
    images = photo(3)
    assert len(tokens_of(model_of("grid"), images).places) == 4 + 49 + 1  # 2x2 cells and 7x7 differ
    seven = TokenSet(torch.rand(1, 49, 6, dtype=torch.float64), torch.ones(1, 49, dtype=torch.bool))
    tokens = tokens_of(model_of("hybrid"), images._replace(grid=seven))
    assert [sum(place.kind == kind for place in tokens.places) for kind in ("region", "cell", "photo")] == [3, 49, 1]
    cell = next(number for number, place in enumerate(tokens.places) if place[:2] == ("cell", 8))
    assert tokens.places[cell].box == pytest.approx((1 / 7, 1 / 7, 2 / 7, 2 / 7), abs=1e-6)
    kinds = [
        (branch.source, branch.parts[token])
        for branch in tokens.branches
        for token in (branch.places == cell).nonzero().flatten().tolist()
    ]
    assert sorted(kinds) == sorted([*product(["regions", "grid"], ["scene"]), ("grid", "local"), ("grid", "fused")])
    with pytest.raises(ValueError, match="2 photos; one is explained at a time"):
        tokens_of(model_of("region"), image_batch([2, 3]))


# ---- what is shown


def made(test: DeletionTest | None) -> Explanation:
    boxes = [(0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0), (0.0, 0.0, 1.0, 1.0), (0.0, 0.5, 0.5, 1.0)]
    places = [Place("cell", number, box) for number, box in enumerate(boxes)]
    seg_map = np.zeros((MAP_SIDE, MAP_SIDE), np.uint8)
    seg_map[32:, 32:], seg_map[0] = 1, VOID
    found = [
        Contribution(place, effect, 0.1, {"local": 0.1}, 0.5, np.full((64, 64), 1 / 4096))
        for place, effect in zip(places, (0.4, 0.2, 0.1, -0.3), strict=True)
    ]
    return Explanation("a red $ball", 0.7, found, None, test, {}, seg_map, ["grass", "ball"])


def test_the_table_names_a_segment_by_its_class() -> None:
    explanation, box = made(None), (0.0, 0.0, 1.0, 1.0)
    of_segment = explanation.contributions[0]._replace(place=Place("segment", 1, box))
    assert cells(explanation, of_segment)[0] == "segment ball"
    assert cells(explanation, explanation.contributions[0])[0] == "cell 0"


def test_the_heat_spreads_effects_over_their_boxes() -> None:
    heat = made(DeletionTest(0.6, 0.1, 1.0)).heat((6, 4))
    assert heat.shape == (4, 6)
    expected = np.full((4, 6), 0.1 / 24)
    expected[:2, :3] += 0.4 / 6
    expected[2:, 3:] += 0.2 / 6
    np.testing.assert_allclose(heat, expected / expected.max(), rtol=1e-6)
    assert pixels((0.99, 0.99, 1, 1), (3, 3)) == (slice(2, 3), slice(2, 3))


@pytest.mark.parametrize("test", [None, DeletionTest(0.2, 0.1, 1.0)])
def test_what_fails_its_test_is_not_shown_as_an_explanation(test: DeletionTest | None) -> None:
    failed, passed = made(test), made(DeletionTest(0.6, 0.1, 1.0))
    assert (failed.shown_as, passed.shown_as) == ("weights", "explanation")
    assert failed.remark.startswith("Not an explanation")
    assert not failed.heat((8, 8)).any()
    assert failed.to_json()["shown_as"] == "weights"
    assert failed.to_json()["attention"]["named"] == []
    assert [found.place.number for found in passed.named] == [0, 1, 2]
    photo = Image.new("RGB", (300, 200), "white")
    without, drawn = failed.draw(photo), passed.draw(photo)
    blue = [(np.asarray(picture) == (31, 78, 156)).all(axis=-1).sum() for picture in (without, drawn)]
    assert blue[0] == 0  # no place is named
    assert blue[1] > 200
    assert photo.getpixel((0, 0)) == (255, 255, 255)


def test_places_without_tokens_are_not_named_or_drawn() -> None:
    """Of local tokens alone: the scene's cells and the photo are not in the embedding."""
    model = copy.deepcopy(model_of("region"))
    model.image_encoder.parts = nn.ModuleDict({"local": model.image_encoder.parts["local"]})
    found = explain(model, photo(3), "a b")
    assert [each.place.kind for each in found.contributions] == ["region"] * 3
    assert (found.test, found.photo) == (None, None)
    assert [each.place.kind for each in explain(model, photo(5), "a b").contributions] == ["region"] * 5


def test_json_names_a_segment_by_its_class() -> None:
    of_segment = made(None).contributions[0]._replace(place=Place("segment", 1, (0.0, 0.0, 1.0, 1.0)))
    (place,) = dataclasses.replace(made(None), contributions=[of_segment]).to_json()["places"]
    assert (place["name"], next(iter(place["classes"]))) == ("ball", "grass")  # most of its box is grass


def test_json_says_what_lies_where() -> None:
    content = json.loads(json.dumps(made(DeletionTest(0.6, 0.1, 1.0)).to_json()))
    assert content["places"][1]["classes"] == {"ball": 1.0}
    assert content["classes"] == {"grass": pytest.approx(0.734, abs=1e-3), "ball": 0.25}
    assert np.shape(content["segmentation"]) == np.shape(content["attention"]["named"][0]) == (64, 64)
    assert "segmentation" not in made(None).to_json(maps=False)


# ---- the command


@pytest.mark.parametrize("mask", [True, False])
def test_the_command(mask: bool, command, demo_run: Path, demo_shards: Path, tmp_path: Path) -> None:
    raw = demo_shards.parents[1] / "raw"
    file = sorted((raw / "images").glob("test-*.png"))[0]
    words = [f"checkpoint={demo_run}", f"image={file}", 'query="a red ball, on the left"', f"out={tmp_path / 'out'}"]
    ended = command("explain", *words, *([f"mask={raw / 'segmentation' / file.name}"] if mask else []))
    if not mask:
        assert ended.code == 1
        assert "mask=<PNG>" in ended.err
        assert not (tmp_path / "out").exists()
        return
    assert ended.code == 0, ended.err
    assert "a red ball, on the left" in ended.out
    content = json.loads((tmp_path / "out" / "explanation.json").read_text())
    retriever = Retriever.load(demo_run, device="cpu")
    image = retriever.encode_photos([file], masks=[raw / "segmentation" / file.name])
    text = retriever.encode_texts(["a red ball, on the left"])
    assert content["score"] == pytest.approx(float(retriever.similarity(image, text)), abs=1e-5)
    given = [*content["places"], content["photo"]]
    assert sum(place["share"] for place in given) == pytest.approx(content["score"], abs=1e-3)
    assert content["remark"].split(":")[0] in " ".join(ended.out.split())
    with Image.open(tmp_path / "out" / "explanation.png") as picture:
        assert picture.width > 800


def test_what_cannot_be_explained_is_said_at_once(command, tmp_path: Path) -> None:
    where = [f"checkpoint={tmp_path}", f"image={tmp_path / 'none.jpg'}", f"out={tmp_path / 'out'}"]
    ended = command("explain", *where, 'query=" "', "top=0")
    assert ended.code == 1
    assert "2 problems" in ended.err
    ended = command("explain", *where, "query=dog")
    assert f"image={tmp_path / 'none.jpg'}: no such file" in ended.err


# ---- the experiment


def test_the_rows_bear_out_what_is_called_an_explanation() -> None:
    """Of every model on held-out photos: deletion passes, and VSeM's weights name places as random draws do."""
    rows = list(csv.DictReader((ROOT / "experiments" / "explanations" / "results.csv").open(encoding="utf-8")))
    scored = [row for row in rows if row["split"] == "test" and row["way"] in ("deletion", "VSeM weight")]
    tests = [
        DeletionTest(float(row["cost_named"]), float(row["cost_random"]), float(row["beaten"]) / 100) for row in scored
    ]
    passed = {(row["way"], test.passed) for row, test in zip(scored, tests, strict=True)}
    assert passed == {("deletion", True), ("VSeM weight", False)}


def test_the_experiment_writes_a_row_for_each_way(
    demo_run: Path, demo_shards: Path, tmp_path: Path, monkeypatch
) -> None:
    out = tmp_path / "rows.csv"
    words = [str(demo_run), "--shards", str(demo_shards), "--split", "test", "--photos", "4", "--out", str(out)]
    words += ["--pixels", "2"]
    monkeypatch.setattr("sys.argv", ["run.py", *words])
    run.main()
    rows = list(csv.DictReader(out.open()))
    assert [row["way"] for row in rows] == list(run.WAYS)
    assert all(float(row["cost_named"]) < 1 and row["photos"] == "4" for row in rows)
    (blanked,) = csv.DictReader((tmp_path / "pixels.csv").open(encoding="utf-8"))
    assert 0 < float(blanked["area_named"]) < 1
    assert float(blanked["change_random"]) > 0
