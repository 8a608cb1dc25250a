"""The kernel branch: the regression beside a slow twin, and what a training does with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from threeshnet import Retriever
from threeshnet.batches.collate import collate_images
from threeshnet.encoders.kernel import KernelPooling, Roots
from threeshnet.errors import ConfigError
from threeshnet.explanations.explain import explain
from threeshnet.explanations.places import tokens_of
from threeshnet.index.build import Options, update_index
from threeshnet.index.index import Index
from threeshnet.index.query import Query
from threeshnet.index.sources import ShardImages
from threeshnet.pooling.mean import MeanPooling
from threeshnet.records import TokenSet
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.checkpoint import load_model

from .compared_runs import STEPS, assert_equal, check_same_run, checkpoint

WIDTH, DIM, PHOTOS = 6, 4, 5
MEAN = MeanPooling()
KERNEL = "features=grid_kernel"


def tokens(count: int, seed: int = 0) -> TokenSet:
    torch.manual_seed(seed)
    return TokenSet(torch.randn(count, 3, WIDTH), torch.tensor([[True, True, False]]).expand(count, 3))


def fitted(photos: int = PHOTOS, **options: float) -> tuple[KernelPooling, Tensor]:
    """A branch that has seen a caption of each of `PHOTOS` photos, and these captions."""
    pooling = KernelPooling(width=WIDTH, dim=DIM, photos=photos, **options)
    torch.manual_seed(1)
    captions = torch.nn.functional.normalize(torch.randn(PHOTOS, DIM), dim=1)
    pooling.keep(MEAN(tokens(PHOTOS)))
    pooling.observe(torch.arange(PHOTOS), captions)
    pooling.fit()
    return pooling, captions


def by_gradient(photos: Tensor, wanted: Tensor, asked: Tensor, sharpness: float, ridge: float) -> Tensor:
    """Predictions for `asked`, with the coefficients that minimise the ridge regression's loss, found step by step."""
    like = torch.exp(sharpness * (photos @ photos.T - 1))
    coefficients = torch.zeros_like(wanted)
    for _ in range(20000):
        coefficients -= 0.05 * (like @ coefficients + ridge * coefficients - wanted)
    return torch.exp(sharpness * (asked @ photos.T - 1)) @ coefficients


@pytest.mark.parametrize(("sharpness", "ridge"), [(2.0, 0.1), (0.5, 1.0)])
def test_the_fit_is_the_ridge_regression(sharpness: float, ridge: float) -> None:
    pooling, captions = fitted(sharpness=sharpness, ridge=ridge)
    photos, asked = (pooling.placed(MEAN(tokens(PHOTOS, seed))).double() for seed in (0, 7))
    wanted = captions.double() - captions.double().mean(dim=0)
    expected = by_gradient(photos, wanted, asked, sharpness, ridge)
    torch.testing.assert_close(pooling(tokens(PHOTOS, 7)).double(), expected, rtol=1e-4, atol=1e-5)
    assert expected.abs().max() > 0.05


def test_with_hardly_any_ridge_a_kept_photo_gets_its_own_caption() -> None:
    pooling, captions = fitted(ridge=1e-6)
    torch.testing.assert_close(pooling(tokens(PHOTOS)), captions - captions.mean(dim=0), rtol=1e-3, atol=1e-3)


def test_places_without_a_photo_and_photos_without_a_caption_change_nothing() -> None:
    roomy, _ = fitted(photos=PHOTOS + 3)
    torch.testing.assert_close(roomy(tokens(2, 7)), fitted()[0](tokens(2, 7)))
    unseen = KernelPooling(width=WIDTH, dim=DIM, photos=PHOTOS)
    unseen.keep(MEAN(tokens(PHOTOS)))
    unseen.fit()
    assert unseen(tokens(2)).abs().max() == 0
    _, captions = fitted()
    unseen.observe(torch.tensor([0, 2, 3]), captions[[0, 2, 3]])
    unseen.fit()
    assert unseen.coefficients[[1, 4]].abs().max() == 0
    assert unseen.coefficients[[0, 2, 3]].abs().amin(dim=0).max() > 0


def test_captions_of_a_photo_in_one_step_count_in_any_order_and_later_ones_count_more() -> None:
    rows = torch.tensor([2, 0, 2])
    captions = torch.randn(3, DIM, generator=torch.Generator().manual_seed(0))
    one, other = (KernelPooling(width=WIDTH, dim=DIM, photos=PHOTOS) for _ in range(2))
    one.observe(rows, captions)
    other.observe(rows.flip(0), captions.flip(0))
    torch.testing.assert_close(one.targets, other.targets)
    torch.testing.assert_close(one.targets[2], (1 - 0.8**2) * (captions[0] + captions[2]) / 2)
    for _ in range(30):
        one.observe(torch.tensor([2]), captions[1:2])
    torch.testing.assert_close(one.targets[2], captions[1], rtol=1e-2, atol=1e-2)
    assert one.targets[[1, 3, 4]].abs().max() == 0


@pytest.mark.parametrize("photos", [1, PHOTOS])
def test_photos_that_do_not_differ_are_no_photos_that_match(photos: int) -> None:
    pooling = KernelPooling(width=WIDTH, dim=DIM, photos=PHOTOS)
    pooling.keep(torch.ones(photos, WIDTH))
    pooling.observe(torch.arange(photos), torch.eye(PHOTOS, DIM)[:photos])
    pooling.fit()
    assert pooling(tokens(2)).isfinite().all()


def test_half_precision_does_not_reach_the_sum_over_photos() -> None:
    pooling, _ = fitted()
    expected = pooling(tokens(2, 7))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(pooling(tokens(2, 7)), expected)


def test_a_set_is_pooled_without_its_padding_and_roots_keep_their_sign() -> None:
    values = torch.tensor([[[4.0, -9.0], [0.0, 1.0], [1e6, 1e6]], [[1.0, 1.0]] * 3])
    roots, _ = Roots(width=2)(TokenSet(values, torch.tensor([[True, True, False], [False] * 3])))
    assert MEAN(roots).tolist() == [[1.0, -1.0], [0.0, 0.0]]


@pytest.mark.parametrize("wrong", [{"photos": 0}, {"ridge": 0.0}, {"sharpness": -1.0}])
def test_values_that_make_no_regression_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))} .* must be above 0"):
        KernelPooling(**{"width": WIDTH, "dim": DIM, "photos": PHOTOS} | wrong)  # pyright: ignore[reportArgumentType]


# ---- in a training


@pytest.fixture(scope="module")
def with_kernel(train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kernel") / "run"
    assert train(out, KERNEL, "highlights=1")["steps"] == 2 * STEPS
    assert list((out / "highlights").glob("*.png"))
    return out


def kernel_of(out: Path, name: str = "last") -> dict[str, Tensor]:
    state = checkpoint(out, name)["state_dict"]
    return {key.rsplit(".", 1)[1]: value for key, value in state.items() if ".branches.kernel." in key}


def test_the_trained_branch_learns_as_without_it(train, with_kernel: Path, tmp_path: Path) -> None:
    train(tmp_path, "features=grid")
    alone, beside = (checkpoint(out)["state_dict"] for out in (tmp_path, with_kernel))
    for name, value in alone.items():
        found = beside[name.replace("image_encoder.", "image_encoder.branches.grid.")]
        assert_equal(found, value, name)


def test_every_epoch_ends_with_a_fit(with_kernel: Path) -> None:
    """`best` is of the first or second epoch, `last` of the second; both know the photos that were trained on."""
    for name in ("best", "last"):
        kept = kernel_of(with_kernel, name)
        known = kept["coefficients"].abs().amax(dim=1) > 0
        assert 0 < known.sum() <= 6
        assert (kept["kept"][known].norm(dim=1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize(("step", "where"), [(STEPS + 1, "training"), (STEPS, "validation")])
def test_a_resumed_run_ends_with_the_same_fit(
    train, killed, with_kernel: Path, tmp_path: Path, step: int, where: str
) -> None:
    out = killed(tmp_path / "run", step, where, KERNEL)
    train(out, "resume=true", KERNEL)
    check_same_run(out, with_kernel)


def test_explanations_and_scores_know_both_branches(with_kernel: Path, synthetic_shards: Path) -> None:
    model = load_model(with_kernel / "checkpoints" / "last.ckpt")
    photo = collate_images(ShardedSplit(synthetic_shards, "testall").read([0], ["grid", "seg"]))
    found, whole = tokens_of(model, photo), model.encode_images(photo)
    assert [branch.source for branch in found.branches] == ["grid", "grid"]
    every = torch.ones(1, len(found.places), dtype=torch.bool)
    torch.testing.assert_close(found.embeddings(every), whole, rtol=0, atol=1e-6)
    cell = every.clone()
    cell[0, 0] = False
    assert (found.embeddings(cell) - whole).abs().max() > 1e-4
    model.image_encoder.branches["kernel"].pooling.coefficients.zero_()  # pyright: ignore
    assert (model.encode_images(photo) - whole).abs().max() > 1e-2


def test_guidance_is_that_of_the_trained_branch(with_kernel: Path, synthetic_shards: Path) -> None:
    model = load_model(with_kernel / "checkpoints" / "last.ckpt")
    photo = collate_images(ShardedSplit(synthetic_shards, "testall").read([0], ["grid", "seg"]))
    (guidance,) = explain(model, photo, "a dog").guidance.values()
    assert guidance.weights is not None
    assert guidance.attention is not None


def test_an_index_holds_the_sum_of_both_branches(with_kernel: Path, synthetic_shards: Path, tmp_path: Path) -> None:
    retriever, split = Retriever.load(with_kernel, device="cpu"), ShardedSplit(synthetic_shards, "testall")
    update_index(ShardImages(retriever, split), retriever, tmp_path / "index", Options(progress=False))
    photos = collate_images(split.read(range(split.images), ["grid", "seg"]))
    (answer,) = Index.open(tmp_path / "index").search([Query("a dog")], split.images)
    expected = (retriever.model.encode_images(photos) @ retriever.encode_texts(["a dog"])[0]).sort(descending=True)
    assert [result.score for result in answer.results] == pytest.approx(expected.values.tolist(), abs=2e-3)


def test_a_moving_average_of_a_fit_is_refused(attempt, tmp_path: Path) -> None:
    ended = attempt(tmp_path, KERNEL, "averaging=ema")
    assert (ended.code, "averaging=ema would average the fits of the kernel branch" in ended.err) == (1, True)
