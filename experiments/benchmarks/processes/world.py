"""A tiny world for equality.py: photos and captions in memory, the hybrid model of the suite, and real processes."""

from __future__ import annotations

import copy
import os
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from hydra.utils import instantiate
from pytorch_lightning.plugins.environments import LightningEnvironment  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn

from threeshnet.batches.augment import AlterWords, DropTokens
from threeshnet.batches.dataset import CaptionDataset
from threeshnet.batches.loader import TrainingLoader
from threeshnet.batches.order import CaptionBatches
from threeshnet.batches.tokenizers import SPECIALS, Wordpieces
from threeshnet.encoders.model import RetrievalModel
from threeshnet.encoders.text.bigru import BiGRUTextEncoder
from threeshnet.pooling.generalized import GeneralizedPooling
from threeshnet.records import ImageArrays
from threeshnet.training.module import RetrievalModule
from threeshnet.training.schedules import Optimization

from ..common import composed

WORDS = ("a", "man", "dog", "cat", "red", "blue", "on", "in", "street", "snow")
CLASSES, REGION, GRID, CELLS, MOST_REGIONS = 5, 6, 7, 9, 8
PHOTOS, CAPTIONS, BATCH = 13, 47, 8  # 47 are 5 batches of 8 and one of 7: uneven for 2 and for 4 processes
BEFORE_BATCHNORM = ("enter.bias", "conv.bias")  # whose gradient is 0: BatchNorm takes them off again
SIZES = [f"sizes.region_width={REGION}", f"sizes.grid_width={GRID}", f"sizes.classes={CLASSES}", "dim=12"]


class Photos:
    """Random arrays: photos of 1 to 8 regions, so that shares are padded to different widths."""

    images = PHOTOS

    def __init__(self) -> None:
        numbers = np.random.default_rng(0)
        self.owners = np.arange(CAPTIONS) % PHOTOS
        self.caption_texts = [" ".join(numbers.choice(WORDS, numbers.integers(2, 9))) for _ in range(CAPTIONS)]
        lengths = numbers.integers(1, MOST_REGIONS + 1, PHOTOS)
        self.regions = [numbers.normal(size=(length, REGION)).astype(np.float32) for length in lengths]
        self.grid = numbers.normal(size=(PHOTOS, CELLS, GRID)).astype(np.float32)
        self.semantic = numbers.dirichlet(np.ones(CLASSES), size=(PHOTOS, 7, 7)).transpose(0, 3, 1, 2)
        self.map = numbers.integers(0, CLASSES, size=(PHOTOS, 64, 64)).astype(np.uint8)
        self.map[:, :9] = 255

    def read(
        self, numbers: Sequence[int], fields: Collection[str] | None = None, *, extras: bool = False
    ) -> ImageArrays:
        chosen = list(numbers)
        occurring = np.stack([np.bincount(self.map[n].ravel(), minlength=256)[:CLASSES] > 0 for n in chosen])
        return ImageArrays(
            regions=[self.regions[n] for n in chosen],
            grid=self.grid[chosen],
            seg_semantic=self.semantic[chosen],
            seg_map=self.map[chosen],
            seg_categories=occurring.astype(np.uint8),
        )


def batches(rank: int, processes: int, *, batch: int = BATCH) -> TrainingLoader:
    """The share of one process, by the sampler, augmentation and padding of the suite."""
    tokenizer = words()
    dataset = CaptionDataset(
        splits=[Photos()],
        tokenizer=tokenizer,
        fields=["region", "grid", "seg"],
        drop_tokens=DropTokens(),
        alter_words=AlterWords(tokenizer=tokenizer),
    )
    deal = CaptionBatches(len(dataset), batch_size=batch, drop_last=False, rank=rank, world_size=processes)
    return TrainingLoader(dataset, batches=deal, collate_fn=lambda batch: batch)


def words() -> Wordpieces:
    return Wordpieces([*SPECIALS, *WORDS])


@cache
def _built(kind: str, fusion: str, parts: str) -> RetrievalModel:
    settings = composed(f"experiment={kind}_demo", f"fusion=[{fusion}]", f"parts=[{parts}]", *SIZES)
    torch.manual_seed(0)
    images = instantiate(settings.features.image_encoder)
    text = BiGRUTextEncoder(vocabulary_size=len(words()), dim=12, pooling=GeneralizedPooling(), word_width=10)
    model = RetrievalModel(image_encoder=images, text_encoder=text, tokenizer=words())
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return model


def build(
    kind: str = "region", fusion: str = "semantic,spatial", parts: str = "category,local,fused,scene"
) -> RetrievalModel:
    """The suite's model with every part on, and a BiGRU for the text.  No dropout: it would treat rows differently."""
    return copy.deepcopy(_built(kind, fusion, parts))


def module_of(model: RetrievalModel, objective: nn.Module, **options: Any) -> RetrievalModule:
    """A training module of a copy of `model`, AdamW and a rate that falls in mid-training."""
    return RetrievalModule(
        model=copy.deepcopy(model),
        objective=copy.deepcopy(objective),
        optimization=Optimization(
            partial(torch.optim.AdamW, weight_decay=1e-4),
            partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[2]),
            5e-3,
            0.1,
        ),
        **options,
    )


class Witness(pl.Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))


def train(
    module: RetrievalModule,
    rank: int,
    processes: int,
    *,
    steps: int,
    batch: int = BATCH,
    precision: str = "64-true",
    accumulate: int = 1,
) -> list[float]:
    """Trains on `steps` batches through Lightning and returns the losses; the same call in every process."""
    witness = Witness()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        plugins=[Started()] if processes > 1 else [],
        precision=precision,  # pyright: ignore[reportArgumentType]
        max_steps=steps // accumulate,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=2.0,
        use_distributed_sampler=False,
        callbacks=[witness],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, batches(rank, processes, batch=batch))
    return witness.losses


class Started(LightningEnvironment):
    """These processes are there already: Lightning starts none, and closes nothing."""

    @property
    def creates_processes_externally(self) -> bool:
        return True


def together(processes: int, work: Callable[[int, int], Any], folder: Path) -> list[Any]:
    """`work(rank, processes)` in as many processes, connected by gloo; what each returns.

    They are forked: PyTorch is imported once. Nothing may have been computed in this process before.
    """
    port = _free_port()
    children = []
    for rank in range(processes):
        child = os.fork()
        if not child:
            _be(rank, processes, port, work, folder)
        children.append(child)
    ended = [os.waitpid(child, 0)[1] for child in children]
    if any(ended):
        raise RuntimeError(f"of {processes} processes these failed: {[r for r, code in enumerate(ended) if code]}")
    return [torch.load(folder / f"{processes}-{rank}.pt", weights_only=False) for rank in range(processes)]


def _be(rank: int, processes: int, port: int, work: Callable[[int, int], Any], folder: Path) -> None:
    """The life of one process; it never returns."""
    code = 1
    try:
        torch.set_num_threads(1)
        environment = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": processes, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in environment.items()} | {"MASTER_ADDR": "127.0.0.1"}
        if processes > 1:
            dist.init_process_group("gloo", rank=rank, world_size=processes)
        torch.save(work(rank, processes), folder / f"{processes}-{rank}.pt")
        if processes > 1:
            dist.barrier()
            dist.destroy_process_group()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        for name, weight in module.named_parameters()
    }


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest distance of a tensor relative to its length; of one without a gradient, to the longest of all."""
    lengths = {name: float(tensor.double().norm()) for name, tensor in one.items()}
    longest = max(lengths.values())
    return max(
        float((one[name].double() - other[name].double()).norm())
        / (longest if name.endswith(BEFORE_BATCHNORM) else max(lengths[name], 1e-6 * longest))
        for name in one
    )


def to(items: Any, dtype: torch.dtype) -> Any:
    """A batch with its real numbers in `dtype`."""
    if isinstance(items, Tensor):
        return items.to(dtype) if items.is_floating_point() else items
    return None if items is None else type(items)(*(to(item, dtype) for item in items))


def in_turn(loader: TrainingLoader, count: int) -> Iterator[Any]:
    """The first `count` batches, epochs after each other."""
    epoch = 0
    while count > 0:
        loader.batches.set_epoch(epoch)
        for batch in loader:
            if count > 0:
                yield batch
            count -= 1
        epoch += 1
