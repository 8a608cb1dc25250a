"""No stage exceeds its budget of operators, FLOPs and memory, and a lost optimisation is caught."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments.benchmarks.stages import budget, scoring
from experiments.benchmarks.stages.counts import Count, count
from experiments.benchmarks.stages.stage import Case

from threeshnet.encoders.text import bert
from threeshnet.files import read_rows
from threeshnet.pooling import generalized

BUDGETS = budget.read_budgets(budget.HERE / budget.FILE)
TEXTS, RANKING = ("text_evaluation", "flickr8k"), ("ranking", "1,000 x 5,000")
GPO, SORTED = ("gpo", "flickr8k"), ("gpo_evaluation", "flickr8k")
VSPM, BLOCKS = ("vspm", "flickr8k"), ("objective", "1024 pairs, 128 rows")
PRODUCT = ("product", "8 x 8")
Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("key", budget.CASES, ids=", ".join)
def test_no_stage_exceeds_its_budget(key: budget.Key) -> None:
    faults = budget.exceeded(key, count(budget.case(key).ours), BUDGETS.get(key))
    assert not faults, "\n".join(faults)


def test_budgets_are_of_stages_that_there_are() -> None:
    assert list(BUDGETS) == list(budget.CASES)


# ---- what is caught


def pad_to_the_longest_sentence(patch: Patch) -> None:
    patch.setattr(bert, "LENGTH_GROUPS", 1)


def sort_by_torch(patch: Patch) -> None:
    patch.setattr(generalized, "descending", lambda rows: rows.sort(dim=-1, descending=True).values)


def rank_in_float64(patch: Patch) -> None:
    patch.setattr(budget, "CASES", {RANKING: lambda *size: scoring.ranking(*size, precisions=[])})


LOST = [
    (TEXTS, pad_to_the_longest_sentence, {"flops", "allocated", "peak"}),
    (SORTED, sort_by_torch, {"allocated", "peak"}),
    (RANKING, rank_in_float64, {"allocated", "peak"}),
]
PLAIN = [
    (GPO, {"flops", "allocated", "peak"}),  # the GRU runs for every set of the batch
    (VSPM, {"flops", "peak"}),  # all place vectors at once
    (BLOCKS, {"peak"}),  # all pairs at once
]


@pytest.mark.parametrize(("key", "lose", "measures"), LOST, ids=[lose.__name__ for _, lose, _ in LOST])
def test_a_lost_optimisation_is_caught(
    key: budget.Key, lose: Callable[[Patch], None], measures: set[str], monkeypatch: Patch
) -> None:
    lose(monkeypatch)
    assert caught(key, budget.case(key).ours) == measures


@pytest.mark.parametrize(("key", "measures"), PLAIN, ids=[key[0] for key, _ in PLAIN])
def test_the_plain_twin_of_an_optimisation_is_caught(key: budget.Key, measures: set[str]) -> None:
    assert caught(key, budget.case(key).naive) == measures


def caught(key: budget.Key, work: Any) -> set[str]:
    """Measures of `work` above the budget."""
    faults = budget.exceeded(key, count(work), BUDGETS[key])
    return {fault.removeprefix(f"{', '.join(key)}: ").split()[0] for fault in faults}


# ---- the program


def test_a_product_computed_twice_is_refused_until_the_budget_is_updated(
    tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = torch.ones(8, 8)

    def run(work: Callable[[], Any], *options: str) -> str:
        case = Case(1, work, None, lambda: None, "nothing")
        monkeypatch.setattr(budget, "CASES", {PRODUCT: lambda *_: case})
        budget.main([*options, f"--out={tmp_path}"])
        return capsys.readouterr().out

    once, twice = lambda: matrix @ matrix, lambda: (matrix @ matrix) + (matrix @ matrix)
    with pytest.raises(SystemExit, match=r"product, 8 x 8: no budget in budget\.csv; run python -m .* --update"):
        run(once)
    run(once, "--update")
    assert run(once).count(" 1.000\n") == len(Count._fields)
    expected = r"product, 8 x 8: operators 3, the budget is 1 and at most 10% more; if this is intended, run python -m "
    with pytest.raises(SystemExit, match=expected) as refused:
        run(twice)
    assert len(str(refused.value).splitlines()) == len(Count._fields)
    run(twice, "--update")
    run(twice)
    with pytest.raises(SystemExit):
        budget.main(["flying"])
    assert "no stage flying; there are: product" in capsys.readouterr().err


def test_a_budget_of_other_versions_is_named() -> None:
    counted = Count(*(int(BUDGETS[GPO][measure]) for measure in Count._fields))
    row = BUDGETS[GPO] | {"torch": "2.9.0"}
    assert not budget.exceeded(GPO, counted, row)
    (fault,) = budget.exceeded(GPO, counted._replace(operators=2 * counted.operators), row)
    assert "(the budget is of torch 2.9.0)" in fault


def test_updating_writes_the_page(tmp_path: Path, monkeypatch: Patch) -> None:
    for name in ("README.md.j2", "rows.csv", "where.csv", budget.FILE):
        shutil.copy(budget.HERE / name, tmp_path)
    monkeypatch.setattr(budget, "count", lambda _: Count(1, 2_000_000_000, 3_000_000, 4_000_000))
    budget.main(["objective", "--update", f"--out={tmp_path}"])
    assert len(read_rows(tmp_path / budget.FILE)) == len(budget.CASES)
    assert "| objective | 1024 pairs | 1 | 2.000 | 3.0 | 4.0 |" in (tmp_path / "README.md").read_text()


# ---- counting


def test_memory_counts_once_and_while_it_is_alive() -> None:
    def work() -> torch.Tensor:
        numbers = torch.zeros(1000)  # 4000 bytes
        numbers.view(10, 100).add_(1)  # none
        numbers = numbers.double()  # 8000 more, then 4000 fewer
        return numbers + 1  # 8000 more

    assert count(work) == Count(operators=5, flops=0, allocated=20_000, peak=16_000)


def test_the_gradient_and_attention_count() -> None:
    left, query = torch.ones(2, 3, requires_grad=True), torch.ones(1, 2, 5, 8)
    assert count(lambda: left @ torch.ones(3, 4)).flops == 2 * 2 * 3 * 4
    assert count(lambda: (left @ torch.ones(3, 4)).sum().backward()).flops == 2 * 2 * 2 * 3 * 4
    attention = torch.nn.functional.scaled_dot_product_attention
    assert count(lambda: attention(query, query, query)).flops == 2 * (2 * 2 * 5 * 5 * 8)
