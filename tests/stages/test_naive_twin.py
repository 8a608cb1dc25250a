"""The plain twin of experiments/benchmarks/naive_twin: the model written out, against which the fast one must hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from experiments.benchmarks.naive_twin import compare, image_encoder

TINY = ["--batch=6", "--dim=16", "--text=tiny", "--warm-up=0", "--steps=1", "--no-memory"]


def test_the_fast_model_and_the_plain_one_have_the_same_loss(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    found = compare.main([*TINY, f"--threads={threads}", f"--out={tmp_path / 'result.json'}"])
    assert found["loss"]["relative_difference"] < compare.AGREE
    assert len(found["seconds"]["ours"]) == len(found["seconds"]["naive"]) == 1
    assert (tmp_path / "result.json").stat().st_size > 100


def test_gradients_agree_too() -> None:
    options = compare.parsed(TINY)
    batch, norms = compare.made_up(options, 3), {}
    for name, step in compare.build(options).items():
        for module in step.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        step.loss(batch).backward()
        gradients = [parameter.grad for parameter in step.model.parameters() if parameter.grad is not None]
        norms[name] = torch.nn.utils.get_total_norm(gradients).item()
    assert norms["ours"] == pytest.approx(norms["naive"], rel=2e-3)


def test_weights_without_a_place_are_refused() -> None:
    steps = compare.build(compare.parsed(TINY))
    model = steps["ours"].model
    model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(AssertionError, match="no place in the twin"):
        steps["naive"].model.take_weights(model)


def test_the_image_encoder_is_timed_against_its_products() -> None:
    threads = torch.get_num_threads()
    arguments = ["--sizes=tiny", "--warm-up=0", "--steps=1", f"--threads={threads}"]
    found = image_encoder.main(arguments)["sizes"]["tiny"]
    assert found["largest_difference"] < image_encoder.AGREE
    for kind in ("evaluation", "training"):
        assert {len(taken) for taken in found[kind]["seconds"].values()} == {1}
        assert set(found[kind]["seconds"]) == {"ours", "twin", "products"}


def test_products_are_counted_without_what_is_around_them() -> None:
    left, right = torch.randn(3, 4), torch.randn(4, 5)
    with image_encoder.Seen() as seen:
        (torch.addmm(torch.ones(5), left, right).relu() + left @ right).softmax(dim=-1)
    assert [call[0] for call in seen.calls] == [torch.ops.aten.mm.default] * 2
