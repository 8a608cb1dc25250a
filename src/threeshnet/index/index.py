"""An index that is searched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pyarrow import ChunkedArray
from pyarrow.types import is_string

from threeshnet.errors import CheckpointError, ConfigError, IndexFault
from threeshnet.files import sha256
from threeshnet.index.exact import SPARSE, nearest
from threeshnet.index.filters import Areas, allowed_rows, conditions_of
from threeshnet.index.manifest import BIAS, HUBS, IndexManifest
from threeshnet.index.query import Answer, Query, Result
from threeshnet.index.ranking import Hubs, Nearest, Ranked, Ranking, Wanted
from threeshnet.index.rows import Rows, as_numpy, read_array
from threeshnet.metrics.answerability import Calibration

if TYPE_CHECKING:
    from threeshnet.export.onnx_text import OnnxText
    from threeshnet.index.approximate import Approximate
    from threeshnet.index.cluster import Cluster
    from threeshnet.retriever import Retriever

ATTEMPTS = 3  # to open an index that is being replaced
MOST_RESULTS = 10_000
TINY = 1e-12  # length of a mixture of a sentence and its opposite


class Index:
    """Embeddings of photos (or of captions) that sentences and photos find."""

    def __init__(self, folder: Path, manifest: IndexManifest, rows: Rows, checkpoint: str | None = None) -> None:
        self.folder, self.manifest, self.rows, self.checkpoint = folder, manifest, rows, checkpoint
        self.class_names: Sequence[str] = manifest.source.class_names
        self.cluster: Cluster | None = None
        self._columns: dict[str, np.ndarray] = {}
        self._read_columns: dict[str, ChunkedArray] = {}

    @classmethod
    def open(cls, folder: str | Path, *, checkpoint: str | None = None, cluster: str | None = None) -> Self:
        """Open an index.  Raises IndexFault where there is none, or where it is damaged.

        `checkpoint` is where the model lies now, if it was moved after the indexing. `cluster` is the address of a
        Qdrant that holds the rows and searches them.
        """
        folder, attempt = Path(folder), 1
        while True:
            manifest = IndexManifest.load(folder)
            try:
                opened = cls(folder, manifest, Rows(folder / manifest.rows, manifest.items), checkpoint)
            except IndexFault:  # an indexing has just replaced these rows
                if attempt == ATTEMPTS or IndexManifest.load(folder).rows == manifest.rows:
                    raise
                attempt += 1
                continue
            if cluster is not None:
                from threeshnet.index.cluster import Cluster

                opened.cluster = Cluster(opened, cluster)
            return opened

    def __len__(self) -> int:
        return len(self.rows)

    # ---- search

    def search(
        self,
        queries: Sequence[Query],
        top: int = 10,
        *,
        fold: bool = True,
        corrected: bool = True,
        exact: bool = False,
    ) -> list[Answer]:
        """The answers to some queries, in their order, with `top` results each or all that there are.

        With `fold` near-duplicates of a result are named in it. `corrected` corrects for hubs, where the index was
        made with a bank. `exact` leaves an approximate structure unused. Raises ConfigError for filters that do not
        exist, and CheckpointError or DataError for a photo that cannot be encoded.
        """
        if not 1 <= top <= MOST_RESULTS:
            raise ConfigError(f"top={top}: expected 1 to {MOST_RESULTS:,}")
        masks = {words: allowed_rows(words, self) for words in dict.fromkeys(query.filters for query in queries)}
        wanted = self._wanted(queries) if queries else []
        hashes = self.column("perceptual_hash") if fold and queries else None
        answers: dict[int, Answer] = {}
        for words, mask in masks.items():
            places = [place for place, query in enumerate(queries) if query.filters == words]
            gallery = len(self) if mask is None else int(mask.sum())
            hubs = self._hubs if corrected else None
            ranking = Ranking(self._nearest(words, mask, exact), gallery, hashes, hubs, self.calibration)
            for place, ranked in zip(places, ranking([wanted[place] for place in places], top), strict=True):
                answers[place] = self._answer(queries[place].name, ranked)
        return [answers[place] for place in range(len(queries))]

    def _nearest(self, words: Sequence[str], mask: np.ndarray | None, exact: bool) -> Nearest:
        def search(queries: np.ndarray, top: int, bias: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
            if self.cluster is not None and bias is None:
                return self.cluster.nearest(queries, top, conditions_of(words, self.class_names))
            many = mask is None or mask.mean() > SPARSE  # few are searched faster one by one
            if bias is None and many and not exact and self._approximate is not None:
                rows_and_scores = self._approximate.nearest(queries, top, allowed=mask)
                if rows_and_scores is not None:
                    return rows_and_scores
            return nearest(self.rows.embeddings, queries, top, allowed=mask, bias=bias)

        return search

    @cached_property
    def _approximate(self) -> Approximate | None:
        if self.manifest.approximate is None:
            return None
        from threeshnet.index.approximate import Approximate

        return Approximate(self.rows.folder, self.rows.embeddings)

    def _wanted(self, queries: Sequence[Query]) -> list[Wanted]:
        """The vectors of queries; each sentence is encoded once."""
        texts = list(dict.fromkeys(text for query in queries for text in (query.text, *query.without) if text))
        by_text = dict(zip(texts, self.encode_texts(texts), strict=True)) if texts else {}
        photos = self._photos(queries)
        none = np.zeros((0, self.manifest.source.dim), np.float32)
        wanted = []
        for query, photo in zip(queries, photos, strict=True):
            unwanted = np.stack([by_text[text] for text in query.without]) if query.without else none
            parts = [by_text[query.text] * (query.text_weight if photo is not None else 1)] if query.text else []
            if photo is not None:
                parts.append(photo * (1 - query.text_weight if query.text else 1))
            vector = np.sum(parts, axis=0)
            vector = vector / max(float(np.linalg.norm(vector)), TINY)
            wanted.append(Wanted(vector, unwanted, photo is None))
        return wanted

    def _photos(self, queries: Sequence[Query]) -> list[np.ndarray | None]:
        """The embedding [D] of each query's photo: the stored one of an indexed photo, by its bytes or its id."""
        found = [self._indexed(query) if query.image is not None else self._embedding(query.like) for query in queries]
        unknown = [place for place, query in enumerate(queries) if query.image is not None and found[place] is None]
        for masked in (False, True):
            places = [place for place in unknown if (queries[place].mask is not None) == masked]
            if not places:
                continue
            images: Any = [queries[place].image for place in places]
            masks: Any = [queries[place].mask for place in places] if masked else None
            try:
                made = self.retriever.encode_photos(images, masks=masks, progress=False).numpy()
            except CheckpointError as error:
                raise CheckpointError(f"{error}; a photo that is in the index is found without") from error
            for place, embedding in zip(places, made, strict=True):
                found[place] = embedding
        return found

    def _indexed(self, query: Query) -> np.ndarray | None:
        """The stored embedding of a photo whose bytes are those of an indexed one; None for another."""
        if self.manifest.source.kind == "captions":
            return None
        try:
            digest = sha256(query.image) if isinstance(query.image, Path) else query.sha256
        except OSError:  # who reads the photo will say so
            return None
        row = self._row_of_bytes.get(digest) if digest else None
        return None if row is None else np.asarray(self.rows.embeddings[row])

    def _embedding(self, id: str | None) -> np.ndarray | None:
        """Of an indexed item, [D].  Raises ConfigError for another id."""
        if id is not None and id not in self._row_of:
            raise ConfigError(f"like={id!r}: no item of this index has that id")
        return None if id is None else np.asarray(self.rows.embeddings[self._row_of[id]])

    def _answer(self, name: str, ranked: Ranked) -> Answer:
        likely = None if ranked.probabilities is None else ranked.probabilities.tolist()
        rows, scores = ranked.rows.tolist(), ranked.scores.tolist()
        results = [
            Result(
                id=self.text("id", rows[first]) or "",
                file=self.text("file", rows[first]),
                score=scores[first],
                probability=None if likely is None else likely[first],
                row=rows[first],
                duplicates=tuple(self.text("id", rows[other]) or "" for other in others),
                caption=self.text("caption", rows[first]),
            )
            for first, *others in ranked.groups
        ]
        matches = None
        if ranked.answerable is not None and self.calibration is not None:
            matches = bool(self.calibration.matches(ranked.answerable))
        return Answer(name, ranked.answerable, matches, results)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings [B, D] float32 of sentences, by onnxruntime where the index has the text encoder for it."""
        try:
            if self.text_tower is not None:
                # In 8-bit integers the sentences of a batch share a scale: one at a time, each has its own embedding.
                alone = {"batch_size": 1} if self.manifest.text_precision == "int8" else {}
                return self.text_tower.encode_texts(list(texts), **alone)
        except CheckpointError as error:
            raise IndexFault(f"{error}. Or remove its folder: searches load the model then") from error
        return self.retriever.encode_texts(list(texts), progress=False).numpy()

    @cached_property
    def text_tower(self) -> OnnxText | None:
        """The text encoder that the index holds, where onnxruntime is installed."""
        folder = self.folder / self.manifest.text_tower
        if not folder.is_dir() or find_spec("onnxruntime") is None:
            return None
        from threeshnet.export.onnx_text import OnnxText

        return OnnxText(folder, precision=self.manifest.text_precision)

    @cached_property
    def calibration(self) -> Calibration | None:
        """The model's probabilities of an answer; None where its checkpoint has none, or captions are indexed."""
        stored = self.manifest.calibration
        return None if stored is None or self.manifest.source.kind == "captions" else Calibration(**stored)

    @cached_property
    def _hubs(self) -> Hubs | None:
        if self.manifest.correction is None:
            return None
        file = self.rows.folder / HUBS
        return Hubs(read_array(self.rows.folder / BIAS), read_array(file) if file.is_file() else None)

    # ---- what is in it

    @cached_property
    def retriever(self) -> Retriever:
        """The model, loaded at first use.  Raises CheckpointError, or IndexFault for another model."""
        from threeshnet.index.build import weights_hash
        from threeshnet.retriever import Retriever

        source = self.checkpoint or self.manifest.model
        if self.checkpoint is None and not Path(source).exists():
            raise IndexFault(
                f"{self.folder}: its model is not at {source}; say where it is now: checkpoint=<run or file>"
            )
        retriever = Retriever.load(source, text_config=self.manifest.text_config)
        if weights_hash(retriever) != self.manifest.source.model_hash:
            raise IndexFault(f"{self.folder} was made with another model than {source} has now; make the index again")
        return retriever

    def column(self, name: str) -> np.ndarray:
        """A column of the facts, [n]; read at first use."""
        if name not in self._columns:
            column = self._read(name)
            texts = is_string(column.type)
            self._columns[name] = np.array(column.to_pylist(), object) if texts else as_numpy(column)
        return self._columns[name]

    def _read(self, name: str) -> ChunkedArray:
        if name not in self._read_columns:
            self._read_columns[name] = self.rows.table([name]).column(0)
        return self._read_columns[name]

    def text(self, name: str, row: int) -> str | None:
        """A text of the facts of one row, None where there is none."""
        return self._read(name)[row].as_py() or None

    def read_areas(self) -> Areas:
        """The connected areas of the segmentations; read once."""
        return self._areas

    @cached_property
    def _areas(self) -> Areas:
        objects: Any = self.rows.table(["objects"]).column(0).combine_chunks()
        counts = np.diff(as_numpy(objects.offsets))
        flat = objects.flatten()
        columns = [as_numpy(flat.field(name)) for name in ("class", "share", "x", "y")]
        return Areas(np.repeat(np.arange(len(counts)), counts), *columns)

    @cached_property
    def classes(self) -> list[tuple[str, int]]:
        """Names of the classes that occur and the number of items that have each, the most frequent first."""
        lists = self.rows.table(["categories"]).column(0).to_pylist()
        return Counter(name for names in lists for name in names or ()).most_common()

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.column("id").tolist())}

    @cached_property
    def _row_of_bytes(self) -> dict[str, int]:
        """The first row of each photo, by the sha256 of its bytes; in an index of shards that ends the key."""
        keys = enumerate(self.column("sha256").tolist())
        return {key.rpartition(":")[2]: row for row, key in reversed(list(keys)) if key is not None}

    def photo_path(self, id: str) -> Path:
        """The photo of an indexed item.  Raises KeyError for any other id, and where the index knows no files."""
        file = self.text("file", self._row_of[id])
        if not file or not self.manifest.raw:
            raise KeyError(id)
        return Path(self.manifest.raw, file)
