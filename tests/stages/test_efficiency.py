"""The efficiency experiment: its cross-attention against plain loops, its search, its arithmetic, and a tiny run."""

from __future__ import annotations

import doctest
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from experiments.benchmarks.efficiency import clocks, cross_attention, nearest, run, shown, systems, whole

from threeshnet.metrics.similarity import EmbeddingSimilarity
from threeshnet.records import TokenSet

EFFICIENCY = Path(__file__).parents[2] / "experiments/benchmarks/efficiency"
TINY = (
    "--galleries 12 7 --captions 2 --repeats 2 --images 5 --sentences 7 --search-pairs 200 --pair-images 3 --batch 3 "
)
TINY += "--text tiny --dim 16 --regions 4 --region-width 6 --classes 5 --block-cells 50 --pair-cells 6"
IMAGES, REGIONS, SENTENCES, WORDS, DIM = 3, 4, 5, 6, 8


@pytest.fixture
def tokens() -> tuple[torch.Tensor, TokenSet]:
    """Regions [B, R, D] and words [Q, L, D], unit length, float64; sentences of 1 to L words."""
    draw = torch.Generator().manual_seed(0)
    shapes = (IMAGES, REGIONS, DIM), (SENTENCES, WORDS, DIM)
    regions, words = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)
    mask = torch.arange(WORDS) < torch.tensor([1, 2, 4, 5, 6]).unsqueeze(1)
    unit = torch.nn.functional.normalize
    return unit(regions, dim=-1), TokenSet(unit(words, dim=-1), mask)


def test_examples_in_docstrings() -> None:
    found = [doctest.testmod(module) for module in (cross_attention, nearest, systems, whole, shown, clocks, run)]
    assert [result.failed for result in found] == [0] * len(found)
    assert sum(result.attempted for result in found) >= 5


# ---- cross-attention


def by_hand(regions: list[list[float]], words: list[list[float]], over_words: str) -> float:
    """One image and one sentence without padding, formula by formula."""

    def dot(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    def cosine(one: list[float], other: list[float]) -> float:
        return dot(one, other) / math.sqrt(dot(one, one) * dot(other, other))

    clipped = [[max(cosine(region, word), 0.0) for word in words] for region in regions]
    lengths = [math.sqrt(dot(row, row)) for row in clipped]
    found = []
    for place, word in enumerate(words):
        scaled = [row[place] / length if length else 0.0 for row, length in zip(clipped, lengths, strict=True)]
        weights = [math.exp(9.0 * value) for value in scaled]
        summed = [
            sum(weight * region[channel] for weight, region in zip(weights, regions, strict=True)) / sum(weights)
            for channel in range(len(word))
        ]
        found.append(cosine(summed, word))
    if over_words == "mean":
        return sum(found) / len(found)
    return math.log(sum(math.exp(6.0 * value) for value in found)) / 6.0


@pytest.mark.parametrize("over_words", ["mean", "lse"])
def test_cross_attention_is_that_of_plain_loops(tokens, over_words: str) -> None:
    regions, words = tokens
    found = cross_attention.cross_attention(regions, words, over_words=over_words)
    expected = [
        [by_hand(image, vectors[mask].tolist(), over_words) for vectors, mask in zip(*words, strict=True)]
        for image in regions.tolist()
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("over_words", ["mean", "lse"])
@pytest.mark.parametrize("filling", [5.0, float("nan"), float("inf")])
def test_padding_words_do_not_matter(tokens, over_words: str, filling: float) -> None:
    regions, words = tokens
    score = cross_attention.cross_attention
    more = torch.nn.functional.pad(words.values, (0, 0, 0, 2))
    mask = torch.nn.functional.pad(words.mask, (0, 2))
    more = more.masked_fill(~mask.unsqueeze(-1), filling)
    expected = score(regions, words, over_words=over_words)
    torch.testing.assert_close(score(regions, TokenSet(more, mask), over_words=over_words), expected)


def test_a_region_that_fits_no_word_divides_by_nothing() -> None:
    word = torch.tensor([[[1.0, 0.0]]])
    regions = torch.tensor([[[-1.0, 0.0], [-1.0, 0.0]], [[1.0, 0.0], [-1.0, 0.0]]])
    found = cross_attention.cross_attention(regions, TokenSet(word, torch.ones(1, 1).bool()))
    assert found[:, 0].tolist() == pytest.approx([-1.0, 1.0])


def test_unknown_ways_to_add_words_up_are_refused(tokens) -> None:
    with pytest.raises(ValueError, match="there are mean, lse"):
        cross_attention.cross_attention(*tokens, over_words="max")


def test_blocks_of_pairs_are_cut_from_the_whole(tokens) -> None:
    module = cross_attention
    block = module.EveryPair(*tokens).block(slice(1, 3), slice(0, 2))
    torch.testing.assert_close(block, module.cross_attention(*tokens)[1:3, :2])


# ---- search


@pytest.mark.parametrize("cells", [1, 7, 20, 10_000])
@pytest.mark.parametrize("k", [1, 4, 50])
def test_the_nearest_in_tiles_are_those_of_the_whole(cells: int, k: int) -> None:
    draw = torch.Generator().manual_seed(0)
    queries, gallery = (torch.randn(count, 8, generator=draw, dtype=torch.float64) for count in (11, 13))
    expected = (queries @ gallery.T).topk(min(k, 13), dim=1)
    for source in (nearest.Products(queries, gallery), EmbeddingSimilarity(queries, gallery)):
        found = nearest.nearest(source, k, cells)
        assert torch.equal(found.numbers, expected.indices)
        torch.testing.assert_close(found.values, expected.values.float())


# ---- arithmetic


@pytest.fixture
def rows() -> dict[str, dict[str, object]]:
    """Made-up: 10, 20 or 40 images and 5 sentences a second; 1,000 pairs a second by product, 100 by attention."""

    def row(items: int, *seconds: float, gallery: int = 0) -> dict[str, object]:
        return {"unit": "", "items": items, "gallery": gallery, "seconds": list(seconds), "commit": "c"}

    found = {name: row(40, 4.0, 2.0, 8.0) for name in whole.IMAGES.values()}
    found |= {name: row(50, 10.0) for name in whole.SENTENCES.values()}
    found |= {whole.search(direction, 100): row(50_000, 50.0, gallery=100) for direction in ("t2i", "i2t")}
    found |= {whole.search("t2i", 200): row(2_000, 2.0, gallery=200), whole.search("i2t", 200): row(500, 1.0)}
    return found | {whole.PAIRS: row(1_000, 10.0)}


def test_a_whole_gallery_is_drawn_out_linearly(rows) -> None:
    three = whole.whole(whole.speeds(rows, systems.THREE, 100), 100, 500)
    assert (three.images, three.sentences, three.scoring, three.seconds) == (10.0, 100.0, 50.0, 160.0)
    assert (three.kpps, three.scoring_kpps) == (50_000 / 160 / 1_000, 1.0)
    assert three.sentence_queries == pytest.approx(1 / (1 / 5 + 100 / 1_000))
    assert three.image_queries == pytest.approx(1 / (1 / 10 + 500 / 1_000))
    cross = whole.whole(whole.speeds(rows, systems.CROSS, 100), 100, 500)
    assert (cross.scoring, cross.seconds) == (500.0, 610.0)
    slowest, fastest = (whole.whole(whole.speeds(rows, systems.THREE, 100, pick), 100, 500) for pick in (max, min))
    assert (slowest.seconds, fastest.seconds) == (170.0, 155.0)


def test_directions_have_their_own_speed(rows) -> None:
    speeds = whole.speeds(rows, systems.VSE, 200)
    assert (speeds.t2i, speeds.i2t) == (1_000.0, 500.0)


def test_what_is_drawn_out_is_marked(rows) -> None:
    assert whole.sampled(rows, systems.THREE, 100, 500) == ("≈", "≈", "", "")
    assert whole.sampled(rows, systems.THREE, 200, 50) == ("≈", "", "≈", "≈")
    assert whole.sampled(rows, systems.CROSS, 100, 500) == ("≈", "≈", "≈", "≈")


def test_the_table_says_what_the_rows_say(rows) -> None:
    settings = {"captions": 5, "dim": 10, "regions": 4}
    rows = [" | ".join(row.values()) for row in shown.totals({"settings": settings, "rows": rows})]
    assert rows[0] == (
        "100 | 3SHNet | ≈10 | ≈100 | 50 | ≈160 | ≈0.312 (0.294 to 0.323) | 1 | ≈3.33 | ≈1.67 | ≈3.81 / ≈10 | 4e-06"
    )
    assert rows[2].endswith("| 1 | 1.6e-05")


# ---- the script


def test_a_tiny_run_goes_on_and_makes_a_table(tmp_path: Path) -> None:
    shutil.copy(EFFICIENCY / "README.md.j2", tmp_path)
    threads = torch.get_num_threads()
    asked = [*TINY.split(), f"--threads={threads}", f"--out={tmp_path}"]
    first = run.main(asked)
    assert {len(row["seconds"]) for row in first["rows"].values()} == {2}
    assert first["rows"]["search, t2i, 12 images"]["items"] == 200 // 12 * 12
    assert first["rows"]["search, t2i, 7 images"]["items"] == 14 * 7
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert len([line for line in readme.splitlines() if line.startswith(("| 7 | ", "| 12 | "))]) == 6
    assert (tmp_path / "figure.png").stat().st_size > 10_000

    assert run.main(asked) == first  # nothing is measured again
    later = run.main([*asked, "--repeats=3"])
    assert {len(row["seconds"]) for row in later["rows"].values()} == {3}
    assert run.main([*asked, "--again"])["rows"].keys() == first["rows"].keys()

    (tmp_path / "totals.csv").unlink()
    run.main([f"--out={tmp_path}", "--tables"])
    assert "| 7 | 3SHNet |" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_rows_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    options = run.parsed([*TINY.split(), f"--threads={threads}", f"--out={tmp_path}"])
    file = tmp_path / "results.json"
    file.write_text(json.dumps(run.begun(options, file)))
    options.dim = 17
    with pytest.raises(SystemExit, match=r"(?s)dim: there 16, now 17.*--again"):
        run.begun(options, file)


def test_tables_without_rows_say_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run without --tables first"):
        run.main([f"--out={tmp_path}", "--tables"])


def test_the_committed_page_is_that_of_the_committed_rows(tmp_path: Path) -> None:
    for name in ("README.md.j2", "results.json"):
        shutil.copy(EFFICIENCY / name, tmp_path)
    run.main([f"--out={tmp_path}", "--tables"])
    for name in ("README.md", "measured.csv", "totals.csv", "times.csv"):
        assert (tmp_path / name).read_bytes() == (EFFICIENCY / name).read_bytes()
