"""Examples on pages are read, scripts run, tables follow, sentences are short, and the site stands alone."""

from __future__ import annotations

import importlib.util
import math
import re
import shutil
import statistics
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

import threeshnet
from threeshnet import pooling
from threeshnet.annotations.captions import read_captions
from threeshnet.annotations.folder import CAPTION_FILES, FolderReader
from threeshnet.annotations.semantic_masks import read_classes
from threeshnet.records import ImageArrays, Photo, TokenSet
from threeshnet.reports.pages import Rows, rendered
from threeshnet.shards.schema import documentation

from ..shard_folders import write_shard

ROOT = Path(__file__).resolve().parents[2]
CONF, GUIDES = ROOT / "conf", ROOT / "docs" / "guides"
PAGES = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "AGENTS", "CHANGELOG")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
OWN_PHOTOS, EXTRACTORS, IMPORTING, MANY_GPUS = (
    (GUIDES / f"{name}.md").read_text(encoding="utf-8")
    for name in ("own_photos", "extractors", "importing", "many_gpus")
)
FENCE = re.compile(r"^ *```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^ *```$", flags=re.MULTILINE | re.DOTALL)
FILES = {title: body for page in (OWN_PHOTOS, MANY_GPUS) for _, title, body in FENCE.findall(page) if title}
EXAMPLES = {"captions.txt": 4, "captions.csv": 3, "captions.jsonl": 3}  # captions
SCRIPTS = ("train.sbatch", "one_gpu.sbatch")
FORMS = ("csv", "json", "md", "j2")  # of pages, their templates and their rows
OF_A_MACHINE = re.compile(r"/(?:work|tmp|root|home|Users)/[^\s\"',;]*")
COCO_IMAGES, CAPTIONS_OF_AN_IMAGE = 113_287, 5
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")


# ---- files that a reader copies


def test_every_form_of_captions_has_an_example() -> None:
    assert set(EXAMPLES) == set(CAPTION_FILES) == {name for name in FILES if name.startswith("captions")}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_captions_are_read_whole(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    files = {line.file for line in read_captions(tmp_path / name)}
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    annotated = FolderReader().read(tmp_path)
    assert annotated.problems == ()
    assert len(annotated.photos) == len(files) == 2
    assert sum(len(photo.captions) for photo in annotated.photos) == EXAMPLES[name]


def test_the_example_of_classes_is_read(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(FILES["classes.txt"], encoding="utf-8")
    assert len(read_classes(tmp_path / "classes.txt")) == 3


def test_every_extractor_segmentation_and_layout_is_listed_with_its_model() -> None:
    for group, page in (("extractor", EXTRACTORS), ("segmentation", EXTRACTORS), ("layout", IMPORTING)):
        for choice in sorted({file.stem for file in (CONF / group).glob("*.yaml")} - {"auto"}):
            (row,) = [line for line in page.splitlines() if line.startswith("|") and f"`{group}={choice}`" in line]
            assert OmegaConf.load(CONF / group / f"{choice}.yaml").get("name", "") in row


@needs_bash
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_of_shell_is_shell(page: Path) -> None:
    for language, _, body in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in ("sh", "bash"):
            text = textwrap.dedent(re.sub(r"<[^<>\n]+>", "anything", body))
            ended = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
            assert (ended.returncode, ended.stderr) == (0, ""), body


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_of_python_compiles_and_names_what_there_is(page: Path) -> None:
    for language, _, body in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            compile(body, str(page), "exec")
            assert set(re.findall(r"\bthreeshnet\.([A-Za-z_]+)\(", body)) <= set(threeshnet.__all__)


@needs_bash
@pytest.mark.parametrize(("code", "requeued"), [(0, False), (75, True), (1, False)])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_requeues_what_was_interrupted(name: str, code: int, requeued: bool, tmp_path: Path) -> None:
    """Run with stand-ins for SLURM's programs: exit code 75 is requeued, and every code comes out unchanged."""
    for program, body in {"srun": f"exit {code}", "scontrol": 'echo "$@" > requeued'}.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (tmp_path / program).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "6"}
    ended = subprocess.run(["bash", "-c", FILES[name]], cwd=tmp_path, env=environment, check=False)
    assert ended.returncode == code
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text().split() == ["requeue", "17"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_asks_for_as_many_tasks_as_the_run_has_devices(name: str) -> None:
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)", FILES[name], flags=re.MULTILINE))
    given = dict(re.findall(r"(trainer\.\w+)=(\d+)", FILES[name]))
    devices, nodes = given.get("trainer.devices", "1"), given.get("trainer.num_nodes", "1")
    assert (asked.get("ntasks-per-node", "1"), asked.get("nodes", "1")) == (devices, nodes)
    assert asked["signal"].startswith("USR1@")  # to the tasks: B: would be the script, which waits
    assert "resume=true" in FILES[name]
    assert OmegaConf.load(CONF / "setting/coco.yaml").batches.batch_size % (int(devices) * int(nodes)) == 0


# ---- numbers


def test_the_table_of_arrays_is_the_one_that_shards_are_written_by() -> None:
    assert documentation().rstrip() in (ROOT / "docs/reference/shard_format.md").read_text(encoding="utf-8")


def test_the_table_of_sizes_follows_its_formula() -> None:
    (table,) = re.findall(r"<!-- disk -->\n(.*?)<!-- /disk -->", EXTRACTORS, flags=re.DOTALL)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert len(rows) >= 4
    for name, *cells in rows:
        size = np.dtype(re.findall(r"float\d+", name)[0]).itemsize
        width = {kind: int(number) for kind, number in re.findall(r"(regions|grid) (\d+)", name)}
        parts = [
            36 * (size * width["regions"] + 20) if "regions" in width else 0,
            49 * size * width["grid"] if "grid" in width else 0,
            49 * size * 133 + 64 * 64 + 133,
        ]
        assert [int(cell.replace(",", "")) if cell != "–" else 0 for cell in cells[:4]] == [*parts, sum(parts)], name
        assert cells[4:] == [f"{sum(parts) * photos / 1e9:.1f} GB" for photos in (31_014, 123_287)]


def test_the_formula_of_sizes_is_that_of_a_shard(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = ImageArrays(
        regions=[rng.random((36, 6)).astype(np.float16)],
        boxes=[np.tile(np.array([0, 0, 1, 1], np.float32), (36, 1))],
        scores=[rng.random(36).astype(np.float32)],
        grid=rng.random((1, 49, 5)).astype(np.float16),
        seg_semantic=rng.random((1, 3, 7, 7)).astype(np.float16),
        seg_map=np.zeros((1, 64, 64), np.uint8),
        seg_categories=np.ones((1, 3), np.uint8),
    )
    photo = Photo("a", tmp_path / "a.jpg", "train", ("a dog",))
    path = write_shard(tmp_path / "s.h5", [photo], arrays, grid_size=(7, 7)).path
    held: dict[str, int] = {}
    with h5py.File(path) as shard:
        shard.visititems(lambda name, item: held.update({name: getattr(item, "nbytes", 0)}))
    del held["region/offsets"]
    made = sum(size for name, size in held.items() if name.startswith(("region", "grid", "seg")))
    assert made == 36 * (2 * 6 + 20) + 49 * 2 * 5 + 49 * 2 * 3 + 4096 + 3


def test_numbers_of_large_batches_follow() -> None:
    captions = COCO_IMAGES * CAPTIONS_OF_AN_IMAGE
    assert f"{captions // 256:,} steps has {captions // 4096}" in " ".join(MANY_GPUS.split())

    def same_image(pairs: int) -> float:
        """Pairs of captions of one image that a batch is expected to have."""
        return math.comb(pairs, 2) * (CAPTIONS_OF_AN_IMAGE - 1) / (captions - 1)

    assert 1 - math.exp(-same_image(256)) == pytest.approx(1 / 5, abs=0.02)
    assert 1 - math.exp(-same_image(1024)) > 0.97
    assert same_image(4096) == pytest.approx(60, abs=2)
    demo = OmegaConf.load(CONF / "setting/demo.yaml").warm_up_epochs
    assert f"`warm_up_epochs={demo}` are {demo * 62} steps" in " ".join(MANY_GPUS.split())


# ---- words


def sentences(text: str) -> list[str]:
    """Sentences of paragraphs and lists; tables, code, headings and addresses are left out."""
    text = re.sub(r"<!--.*?-->", "", FENCE.sub("\n\n", text), flags=re.DOTALL)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"^( *\||#| {4}|:::).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`", "Code", text)
    text = re.sub(r"^ *(?:[-*]|\d+\.) ", "\n\n", text, flags=re.MULTILINE)
    parts = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return [sentence for part in parts for sentence in re.split(r"(?<=[.:;!?])\s+(?=\W?[A-Z0-9])", part) if sentence]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_sentences_are_short(page: Path) -> None:
    lengths = {sentence: len(sentence.split()) for sentence in sentences(page.read_text(encoding="utf-8"))}
    assert not [sentence for sentence, words in lengths.items() if words > 35]
    assert statistics.mean(lengths.values()) <= 18


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_lists_look_the_same_on_the_site(page: Path) -> None:
    """Its Markdown wants an empty line before a list, and four spaces before what belongs to an item."""
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"^ {1,3}```.*$", text, flags=re.MULTILINE)
    prose = FENCE.sub("", text)
    assert not re.findall(r"^[^\s|>#-][^\n]*\n(?:[-*]|1\.) .*$", prose, flags=re.MULTILINE)


def test_the_front_page_fits() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("name", ["README.md", "docs/results.md"])
def test_numbers_on_a_page_come_from_the_rows(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert rendered(ROOT / f"{name}.j2", Rows(ROOT / "experiments")) == text


@pytest.mark.parametrize("folder", sorted(file.name for file in (ROOT / "experiments").iterdir() if file.is_dir()))
def test_results_hold_no_path_of_the_machine_that_made_them(folder: str) -> None:
    files = [file for form in FORMS for file in (ROOT / "experiments" / folder).rglob(f"*.{form}")]
    found = {
        f"{file.relative_to(ROOT)}: {path}"
        for file in files
        for path in OF_A_MACHINE.findall(file.read_text(encoding="utf-8"))
    }
    assert not found


# ---- the site


class Addresses(HTMLParser):
    """Addresses of a page: `loads` fetches something at once, `links` is followed by a click; `ids` are its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.ids |= {given["id"]} if "id" in given else set()
        address = given.get("src") or given.get("href", "")
        if address and not address.startswith("data:"):
            (self.links if tag == "a" else self.loads).append(address)


@pytest.mark.skipif(importlib.util.find_spec("zensical") is None, reason="needs the extra docs")
def test_the_site_is_built_loads_nothing_from_elsewhere_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "docs" / "build.py"), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    site = tmp_path / "site"
    pages = {page: Addresses(page.read_text(encoding="utf-8")) for page in site.rglob("*.html")}
    assert len(pages) > 40
    wrong = []
    for page, addresses in pages.items():
        wrong += [f"{page.name} loads {address}" for address in addresses.loads if re.match(r"(https?:)?//", address)]
        for address in [*addresses.loads, *addresses.links]:
            path, _, anchor = address.partition("#")
            if re.match(r"[a-z]+:|//", address) or page.name == "404.html":
                continue
            target = (page.parent / path).resolve() if path else page
            if not target.exists():
                wrong.append(f"{page.relative_to(site)} -> {address}")
            elif anchor and target in pages and anchor not in pages[target].ids:
                wrong.append(f"{page.relative_to(site)} -> {address}: no such heading")
    assert not wrong, "\n".join(wrong)


# ---- the worked example


def test_the_worked_example_of_a_part_is_the_whole_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file and the yaml of AGENTS.md, written as it says, give a pooling that `train` composes and builds."""
    shown = {title: body for _, title, body in FENCE.findall((ROOT / "AGENTS.md").read_text(encoding="utf-8")) if title}
    for name, body in shown.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(body, encoding="utf-8")
    monkeypatch.setattr(pooling, "__path__", [*pooling.__path__, str(tmp_path / "src/threeshnet/pooling")])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        extra = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
        part = instantiate(compose("train", [extra, "pooling=smooth_maximum"]).pooling)
    tokens = TokenSet(torch.randn(2, 4, 3), torch.tensor([[True] * 4, [True, True, False, False]]))
    slow = [(values[mask] * 5).exp().mean(dim=0).log() / 5 for values, mask in zip(*tokens, strict=True)]
    torch.testing.assert_close(part(tokens), torch.stack(slow))
