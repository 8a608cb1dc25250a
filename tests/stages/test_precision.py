"""What `precision=auto` is on which machine."""

from __future__ import annotations

import pytest
import torch

from threeshnet.errors import ConfigError
from threeshnet.nn.precision import precision_of


@pytest.mark.parametrize(
    ("asked", "able", "name"),
    [
        ("auto", {"avx512_bf16": True}, "bf16-mixed"),
        ("auto", {"amx_bf16": True}, "bf16-mixed"),
        ("auto", {"avx512_bf16": False}, "32-true"),
        ("auto", {}, "32-true"),
        ("bf16", {}, "bf16-mixed"),
        ("32", {"avx512_bf16": True}, "32-true"),
    ],
)
def test_automatic_precision_is_what_the_processor_is_fast_in(
    monkeypatch: pytest.MonkeyPatch, asked: str, able: dict[str, bool], name: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert precision_of(asked, "cpu") == name


def test_a_gpu_is_asked_whether_it_has_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for able, name in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda able=able, **_: able)
        assert precision_of("auto", "auto") == precision_of("auto", "gpu") == name


@pytest.mark.parametrize(("asked", "words"), [("8", "there are: auto, 32-true"), ("16", "needs a GPU")])
def test_what_cannot_be_is_refused(asked: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        precision_of(asked, "cpu")
