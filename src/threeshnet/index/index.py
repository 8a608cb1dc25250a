"""An index that is searched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from threeshnet.errors import ConfigError, IndexFault
from threeshnet.index.exact import nearest
from threeshnet.index.filters import Areas, allowed_rows
from threeshnet.index.manifest import IndexManifest
from threeshnet.index.query import Answer, Query, Result
from threeshnet.index.rows import Rows

if TYPE_CHECKING:
    from threeshnet.retriever import Retriever

ATTEMPTS = 3  # to open an index that is being replaced
MOST_RESULTS = 10_000
LIKELY = 0.5  # probability from which an index is said to hold an answer
PENALTY = 0.5  # share of the similarity with `without` that is taken off the score
SPARE = 20  # results looked at beyond those asked for, since near-duplicates are folded


class Index:
    """Embeddings of photos (or of captions) that sentences and photos find."""

    def __init__(self, folder: Path, manifest: IndexManifest, rows: Rows, checkpoint: str | None = None) -> None:
        self.folder, self.manifest, self.rows, self.checkpoint = folder, manifest, rows, checkpoint
        self.class_names: Sequence[str] = manifest.source.class_names
        self._columns: dict[str, np.ndarray] = {}

    @classmethod
    def open(cls, folder: str | Path, *, checkpoint: str | None = None) -> Self:
        """Open an index.  Raises IndexFault where there is none, or where it is damaged.

        `checkpoint` is where the model lies now, if it was moved after the indexing.
        """
        folder, attempt = Path(folder), 1
        while True:
            manifest = IndexManifest.load(folder)
            try:
                return cls(folder, manifest, Rows(folder / manifest.rows, manifest.items), checkpoint)
            except IndexFault:  # an indexing has just replaced these rows
                if attempt == ATTEMPTS or IndexManifest.load(folder).rows == manifest.rows:
                    raise
                attempt += 1

    def __len__(self) -> int:
        return len(self.rows)

    # ---- search

    def search(self, queries: Sequence[Query], top: int = 10, *, fold: bool = True) -> list[Answer]:
        """The answers to some queries, in their order, with `top` results each or all that there are.

        With `fold` near-duplicates of a result are named in it. Raises ConfigError for filters that do not exist, and
        CheckpointError or DataError for a photo that cannot be encoded.
        """
        if not 1 <= top <= MOST_RESULTS:
            raise ConfigError(f"top={top}: expected 1 to {MOST_RESULTS:,}")
        if not queries:
            return []
        masks = {words: allowed_rows(words, self) for words in dict.fromkeys(query.filters for query in queries)}
        wanted, _ = self._vectors(queries)
        answers: list[Answer | None] = [None] * len(queries)
        for words, mask in masks.items():
            places = [place for place, query in enumerate(queries) if query.filters == words]
            kept = min(top + SPARE if fold else top, len(self))
            rows, scores = nearest(self.rows.embeddings, wanted[places], kept, allowed=mask)
            for place, own, score in zip(places, rows, scores, strict=True):
                answers[place] = self._answer(queries[place], own[:top], score[:top])
        return [answer for answer in answers if answer is not None]

    def _vectors(self, queries: Sequence[Query]) -> tuple[np.ndarray, list[np.ndarray]]:
        """What is looked for [Q, D], and what is not wanted, [m, D] a query; all of unit length."""
        texts = list(dict.fromkeys(text for query in queries for text in (query.text, *query.without) if text))
        images = [query.image for query in queries if query.image is not None]
        by_text = dict(zip(texts, self.encode_texts(texts), strict=True)) if texts else {}
        photos = iter(self.retriever.encode_photos(images, progress=False).numpy() if images else ())
        wanted = []
        for query in queries:
            text = by_text[query.text] if query.text else None
            photo = next(photos) if query.image is not None else None
            if text is not None and photo is not None:
                mixed = query.text_weight * text + (1 - query.text_weight) * photo
                wanted.append(mixed / max(float(np.linalg.norm(mixed)), 1e-12))
            else:
                wanted.append(text if text is not None else photo)
        none = np.zeros((0, self.manifest.source.dim), np.float32)
        unwanted = [np.stack([by_text[text] for text in query.without]) if query.without else none for query in queries]
        return np.stack(wanted), unwanted

    def _answer(self, query: Query, rows: np.ndarray, scores: np.ndarray) -> Answer:
        results = [self._result(int(row), float(score)) for row, score in zip(rows, scores, strict=True)]
        return Answer(query.name, None, None, results)

    def _result(self, row: int, score: float) -> Result:
        file, caption = self.column("file")[row], self.column("caption")[row]
        return Result(self.column("id")[row], file or None, score, None, row, (), caption)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings [B, D] float32 of sentences."""
        return self.retriever.encode_texts(list(texts), progress=False).numpy()

    # ---- what is in it

    @cached_property
    def retriever(self) -> Retriever:
        """The model, loaded at first use.  Raises CheckpointError, or IndexFault for another model."""
        from threeshnet.index.build import weights_hash
        from threeshnet.retriever import Retriever

        source = self.checkpoint or self.manifest.model
        retriever = Retriever.load(source, text_config=self.manifest.text_config)
        if weights_hash(retriever) != self.manifest.source.model_hash:
            raise IndexFault(f"{self.folder} was made with another model than {source} has now; make the index again")
        return retriever

    def column(self, name: str) -> np.ndarray:
        """A column of the facts, [n]; read at first use."""
        if name not in self._columns:
            self._columns[name] = self.rows.table([name]).column(0).to_numpy(zero_copy_only=False)
        return self._columns[name]

    def read_areas(self) -> Areas:
        """The connected areas of the segmentations; read once."""
        return self._areas

    @cached_property
    def _areas(self) -> Areas:
        objects = self.rows.table(["objects"]).column(0).combine_chunks()
        counts = np.diff(np.asarray(objects.offsets, np.int64)).astype(np.int64)
        flat = objects.flatten()
        columns = [flat.field(name).to_numpy(zero_copy_only=False) for name in ("class", "share", "x", "y")]
        return Areas(np.repeat(np.arange(len(counts)), counts), *columns)

    @cached_property
    def classes(self) -> list[tuple[str, int]]:
        """Names of the classes that occur and the number of items that have each, the most frequent first."""
        lists = self.rows.table(["categories"]).column(0).to_pylist()
        return Counter(name for names in lists for name in names or ()).most_common()

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.column("id").tolist())}

    def photo_path(self, id: str) -> Path:
        """The photo of an indexed item.  Raises KeyError for any other id, and where the index knows no files."""
        file = self.column("file")[self._row_of[id]]
        if not file or not self.manifest.raw:
            raise KeyError(id)
        return Path(self.manifest.raw, file)
