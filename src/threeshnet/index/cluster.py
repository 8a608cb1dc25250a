"""An index in Qdrant, for those that one machine does not hold: the same search, filters as payload.

The cluster is named by its address. A folder in its place is Qdrant's local mode, which runs the same client code in
this process: for tests, and too slow for more than some ten thousand photos.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import groupby
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from threeshnet.errors import ConfigError, IndexFault
from threeshnet.index.filters import COMPARISONS, LIMITS, PLACES, Condition

if TYPE_CHECKING:
    from threeshnet.index.index import Index

TOGETHER = 512  # points of one request
RANGES = {">=": "gte", "<=": "lte", ">": "gt", "<": "lt"}


class Cluster:
    """The rows of an index as a collection of Qdrant, under the name of the index's folder and rows."""

    def __init__(self, index: Index, address: str) -> None:
        """Raises ConfigError where qdrant-client is not installed."""
        if find_spec("qdrant_client") is None:
            raise ConfigError(f"cluster={address} needs a package: pip install 'threeshnet[qdrant]'")
        from qdrant_client import QdrantClient, models

        remote = address.startswith(("http://", "https://"))
        self.models: Any = models
        self.client: Any = QdrantClient(url=address) if remote else QdrantClient(path=address)
        self.index, self.address = index, address
        self.family = f"threeshnet-{index.folder.absolute().name}-"
        self.name = f"{self.family}{index.manifest.source.model_hash[:12]}-{index.manifest.rows}"

    def push(self) -> None:
        """Send all rows where this state of the index is not there yet, and remove older ones."""
        if not self._is_whole():
            self.client.delete_collection(self.name)
            size = self.index.manifest.source.dim
            self.client.create_collection(
                self.name, vectors_config=self.models.VectorParams(size=size, distance=self.models.Distance.DOT)
            )
            payloads = self._payloads()
            for first in range(0, len(self.index), TOGETHER):
                vectors = np.array(self.index.rows.embeddings[first : first + TOGETHER])
                points = [
                    self.models.PointStruct(id=first + place, vector=vector.tolist(), payload=next(payloads))
                    for place, vector in enumerate(vectors)
                ]
                self.client.upsert(self.name, points)
        for other in self.client.get_collections().collections:
            if other.name.startswith(self.family) and other.name != self.name:
                self.client.delete_collection(other.name)

    def nearest(
        self, queries: np.ndarray, top: int, conditions: Sequence[Condition] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows [Q, k] and scores [Q, k] of the nearest that all `conditions` let through, best first.

        Raises IndexFault where the cluster does not hold this state of the index.
        """
        if not self._is_whole():
            raise IndexFault(
                f"{self.address} does not hold {self.name}; send it with: threeshnet index … cluster=<address>"
            )
        wanted = self.models.Filter(must=[self._filter(condition) for condition in conditions]) if conditions else None
        asked = [self.models.QueryRequest(query=query.tolist(), limit=top, filter=wanted) for query in queries]
        points_of_queries = [each.points for each in self.client.query_batch_points(self.name, asked)]
        count = min((len(points) for points in points_of_queries), default=0)
        rows = [[point.id for point in points[:count]] for points in points_of_queries]
        scores = [[point.score for point in points[:count]] for points in points_of_queries]
        return np.array(rows, np.int64).reshape(len(queries), count), np.array(scores).reshape(len(queries), count)

    def _is_whole(self) -> bool:
        there = self.client.collection_exists(self.name)
        return there and self.client.count(self.name, exact=True).count == len(self.index)

    def _payloads(self) -> Iterator[dict[str, Any]]:
        """What filters read of each row."""
        areas = self.index.read_areas()
        places = {name: inside(areas) for name, inside in PLACES.items()}
        by_row = {row: list(group) for row, group in groupby(range(len(areas.row)), key=lambda at: int(areas.row[at]))}
        for row, file in enumerate(self.index.column("file").tolist()):
            counts: dict[str, int] = {}
            shares: dict[str, float] = {}
            lies = set()
            for at in by_row.get(row, []):
                key = str(areas.number[at])
                counts[key] = counts.get(key, 0) + 1
                shares[key] = shares.get(key, 0.0) + float(areas.share[at])
                lies |= {f"{key}:{name}" for name, inside in places.items() if inside[at]}
            folders = [str(parent) for parent in PurePosixPath(file or "").parents][:-1]
            facts = {name: int(self.index.column(name)[row]) for name in ("taken", "bytes")}
            yield {"counts": counts, "shares": shares, "places": sorted(lies), "folders": folders, **facts}

    def _filter(self, condition: Condition) -> Any:
        """A condition of Qdrant, negated as it may be."""
        models = self.models
        if condition.kind == "folder":
            own: Any = models.FieldCondition(key="folders", match=models.MatchValue(value=condition.text))
        elif condition.kind in LIMITS:
            own = self._range(LIMITS[condition.kind][0], condition.sign, condition.number)
        elif condition.kind == "place":
            names = [f"{number}:{condition.text}" for number in condition.classes]
            own = models.FieldCondition(key="places", match=models.MatchAny(any=names))
        elif condition.kind == "has":
            own = models.Filter(should=[self._range(f"counts.{number}", ">", 0) for number in condition.classes])
        else:
            own = self._compared(condition)
        return models.Filter(must_not=[own]) if condition.negated else own

    def _compared(self, condition: Condition) -> Any:
        if len(condition.classes) != 1:
            names = ", ".join(self.index.class_names[number] for number in condition.classes)
            raise ConfigError(f"{condition.kind}: of one class on a cluster, and there are {names}; name one")
        key = f"{condition.kind}s.{condition.classes[0]}"
        own = self._range(key, condition.sign, condition.number)
        if not COMPARISONS[condition.sign](0, condition.number):
            return own
        absent = self.models.IsEmptyCondition(is_empty=self.models.PayloadField(key=key))  # none of it counts 0
        return self.models.Filter(should=[own, absent])

    def _range(self, key: str, sign: str, number: float) -> Any:
        bounds = {"gte": number, "lte": number} if sign == "=" else {RANGES[sign]: number}
        return self.models.FieldCondition(key=key, range=self.models.Range(**bounds))
