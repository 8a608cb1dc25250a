"""The image encoder beside the plain twin and its bare products."""

from __future__ import annotations

import torch
from experiments.benchmarks.naive_twin import image_encoder


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
