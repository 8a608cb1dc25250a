"""How a model is exported: one folder with all that others need to load it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from threeshnet.errors import ConfigError
from threeshnet.export.onnx_towers import write_towers
from threeshnet.pretrained import replacing_folder, write_exported
from threeshnet.retriever import Retriever
from threeshnet.settings import ExportSettings

MEGABYTE = 1e6


def export_model(settings: ExportSettings) -> None:
    """Write the exported folder of a checkpoint, with `format=onnx` also both towers for onnxruntime."""
    if settings.int8 and settings.format != "onnx":
        raise ConfigError("int8=true is of the ONNX text tower: add format=onnx (FORMAT=onnx), or leave it out")
    if settings.most_tokens < 1:
        raise ConfigError(f"most_tokens={settings.most_tokens}: expected 1 or more regions or cells of a photo")
    retriever, out = Retriever.load(settings.checkpoint, device="cpu"), Path(settings.out)
    with replacing_folder(out) as aside:
        write_exported(aside, retriever.model, retriever.card, retriever.scores)
        if settings.format == "onnx":
            write_towers(retriever.model, retriever.card, aside, int8=settings.int8, most_tokens=settings.most_tokens)
    console = Console()
    for file in sorted(out.iterdir()):
        console.print(f"{file.stat().st_size / MEGABYTE:8.1f} MB  {file}", highlight=False, soft_wrap=True)
