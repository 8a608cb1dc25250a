"""Shared parts of the extractors from `transformers`: finding and loading a model, its pixels."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import snapshot_download
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.utils import logging as transformers_logging

from threeshnet.errors import DataError
from threeshnet.features.extractor import Extractor
from threeshnet.files import read_tensors, sha256

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
PROCESSORS = (PROCESSOR, "processor_config.json")  # transformers 5 may write the second
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")  # the first that is there is what transformers loads
FOLDER = f"a folder with {CONFIG}, {PROCESSOR} and model.safetensors"
LONGEST = 32  # ratio of a photo's sides
T = TypeVar("T")


def located(name: str | Path, *, revision: str | None = None, instead: str = "extractor=lite0") -> Path:
    """The local folder of the model `name`: a folder, or the name of a model on the hub, fetched once into HF_HOME.

    `instead`: the setting that works offline. Raises DataError when the model is not found or its folder is incomplete.
    """
    group = instead.partition("=")[0]
    folder = Path(name) if Path(name).is_dir() else _from_hub(str(name), revision, instead)
    there = {file.name for file in folder.iterdir() if file.is_file()}
    missing = [] if CONFIG in there else [CONFIG]
    missing += [] if there & set(PROCESSORS) else [PROCESSOR]
    missing += [] if weight_files(folder) else ["model.safetensors"]
    if missing:
        raise DataError(
            f"{folder}: {', '.join(missing)} missing; {group}.name takes {FOLDER}, or the name of such a model on the "
            f"hub; {instead} needs neither"
        )
    return folder


def _from_hub(name: str, revision: str | None, instead: str) -> Path:
    settings = ["*.json", "*.txt"]  # tokenizers of models that read a task are among them
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*settings, WEIGHTS[0]]))
        if not weight_files(folder):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*settings, WEIGHTS[1]]))
    except Exception as reason:  # the hub raises a dozen types, and the remedy is the same
        at = f" at revision {revision!r}" if revision else ""
        raise DataError(
            f"the model {name!r}{at} is neither a local folder nor available from the hub ({type(reason).__name__}). "
            f"Give {FOLDER} ({instead.partition('=')[0]}.name=<folder>), set HF_HOME to a cache that holds it, or work "
            f"offline with {instead}."
        ) from reason
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The files that a model is loaded from, sorted. Like transformers, prefers safetensors to pickles."""
    by_form = (sorted(folder.glob(pattern)) for pattern in WEIGHTS)
    return next((files for files in by_form if files), [])


def weights_sha256(folder: Path) -> str:
    """sha256 over the weight files of a folder, one after the other: of one file, the file's own."""
    return sha256(*weight_files(folder))


def settings_sha256(folder: Path) -> str:
    """First digits of the sha256 over the architecture and the processor's settings, which shape the arrays too."""
    files = [file for name in (CONFIG, *PROCESSORS) if (file := folder / name).is_file()]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


@contextmanager
def quietly() -> Iterator[None]:
    """Silences progress bars and reports about unused heads."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def architecture(folder: Path) -> PreTrainedConfig:
    """The configuration in a folder; DataError when transformers does not know it."""
    try:
        with quietly():
            return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as reason:
        raise DataError(f"{folder / CONFIG}: not a model that transformers knows: {reason}") from reason


def loaded(
    kind: Any, folder: Path, *, config: PreTrainedConfig | None = None, renamed: Mapping[str, str] | None = None
) -> Any:
    """The model of class `kind` in a folder, in evaluation mode, frozen, float32.

    `renamed`: regular expressions and what replaces them, one after the other, in the names of the weights.
    Raises DataError when the folder holds another kind of model or leaves weights out, which transformers would draw
    at random.
    """
    options: dict[str, Any] = {} if config is None else {"config": config}
    if renamed:  # transformers' own key_mapping knows but one group a pattern
        options["state_dict"] = {_renamed(key, renamed): weight for key, weight in _weights(folder).items()}
    try:
        with quietly():
            network, report = kind.from_pretrained(
                None if renamed else folder, dtype=torch.float32, output_loading_info=True, **options
            )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as reason:
        raise DataError(f"{folder}: not loaded as {kind.__name__}: {reason}") from reason
    # A counter of training steps and a loss's buffers, which some published files lack, change no array.
    needed = (key for key in report["missing_keys"] if not key.endswith("num_batches_tracked"))
    missing = sorted(key for key in needed if not key.startswith("criterion."))
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} weights of {type(network).__name__} are missing, such as {missing[0]}; "
            "the folder is of another kind of model"
        )
    return network.requires_grad_(False).eval()


def _weights(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for file in weight_files(folder):
        pickled = file.suffix == ".bin"
        weights |= read_tensors(file) if pickled else load_file(file)
    return weights


def _renamed(key: str, patterns: Mapping[str, str]) -> str:
    for pattern, replacement in patterns.items():
        key = re.sub(pattern, replacement, key)
    return key


def image_processor(folder: Path, config: PreTrainedConfig | None = None) -> Any:
    """The image processor in a folder, in its variant for Pillow."""
    model_type = (config or architecture(folder)).model_type
    # DINOv3's processor exists for torchvision only; ViT's has the same settings.
    kind = ViTImageProcessorPil if model_type.startswith("dinov3") else AutoImageProcessor
    backend: dict[str, Any] = {} if kind is ViTImageProcessorPil else {"backend": "pil"}
    try:
        with quietly():
            return kind.from_pretrained(folder, **backend)
    except (OSError, ValueError, ImportError) as reason:
        raise DataError(f"{folder}: no image processor could be loaded from {PROCESSOR}: {reason}") from reason


def without_slivers(image: Image.Image) -> Image.Image:
    """The photo, stretched where one side is more than LONGEST times the other.

    Processors keep the aspect and limit the longer side (to 1333 px for most, 640 for EoMT), so that no pixel would be
    left of the shorter one. Boxes and cells are shares of the photo and stay the same.
    """
    least = math.ceil(max(image.size) / LONGEST)
    size = max(image.width, least), max(image.height, least)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


class Normalized(nn.Module):
    """Normalizes pixels [B, 3, H, W] uint8 as the processor does, on the device: only bytes are copied there."""

    def __init__(self, processor: Any) -> None:
        super().__init__()
        scale = processor.rescale_factor if processor.do_rescale else 1.0
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
        self.scale: Tensor
        self.shift: Tensor
        std = torch.tensor(std, dtype=torch.float64).expand(3)
        mean = torch.tensor(mean, dtype=torch.float64).expand(3)
        self.register_buffer("scale", (scale / std).float().view(3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).float().view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.addcmul(self.shift, pixels.float(), self.scale)


class HubExtractor(Extractor):
    """Base of the extractors whose model is a folder or a name on the hub.

    Photos of different sizes are never padded together: `collate` keeps a list, and `in_equal_sizes` runs one batch for
    each size. So the arrays of a photo do not depend on the rest of its batch.
    """

    def __init__(self, *, name: str | Path, revision: str | None, fields: Sequence[str] | None) -> None:
        super().__init__(fields=fields)
        self.folder = located(name, revision=revision)
        self.weights = weights_sha256(self.folder)
        self.options = {"settings": settings_sha256(self.folder)}
        self.processor = image_processor(self.folder)
        self.normalized = Normalized(self.processor)

    def collate(self, loaded: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        return {"pixels": [item["pixels"] for item in loaded]}


def in_equal_sizes(pixels: Sequence[Tensor], run: Callable[[Tensor], Sequence[T]]) -> list[T]:
    """The results of `run` for each photo, in order; it is called once for each size, with those photos stacked.

    pixels: each [3, H, W]; `run` takes [b, 3, H, W] and returns b results.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, photo in enumerate(pixels):
        groups.setdefault(tuple(photo.shape), []).append(number)
    results: dict[int, T] = {}
    for numbers in groups.values():
        made = run(torch.stack([pixels[number] for number in numbers]))
        results |= dict(zip(numbers, made, strict=True))
    return [results[number] for number in range(len(pixels))]
