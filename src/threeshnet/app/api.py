"""What the JSON API does: each method is a route of `server.create_app`."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from fastapi import Query as Parameters
from fastapi import Request
from fastapi.responses import PlainTextResponse, Response

from threeshnet.app.about import about
from threeshnet.app.answers import (
    About,
    ExplainAnswer,
    ExplainParameters,
    Health,
    PhotoResult,
    SearchAnswer,
    SearchParameters,
)
from threeshnet.app.counters import Counters
from threeshnet.app.guard import Refused
from threeshnet.app.pictures import THUMBNAIL, WHOLE, PictureCache, heat_png, sent_photo
from threeshnet.app.work import ModelQueue, PictureThreads
from threeshnet.errors import DataError
from threeshnet.index.filters import allowed_rows
from threeshnet.index.index import Index
from threeshnet.index.query import Query

log = logging.getLogger(__name__)

HEAT = (320, 320)  # pixels of an explanation's map; the page stretches it over the photo
SLOWNESS = 6  # so many fewer of the slow calls may wait: all of them would end at the limit of time
CACHED = {"cache-control": "private, max-age=600"}


class Limits(NamedTuple):
    """What one request and all together may take."""

    megabytes: float = 20.0  # of a photo that is sent
    seconds: float = 30.0  # of a request
    queue: int = 100  # calls of the model that wait


class Api:
    """One index, its model in threads of its own, and the pictures that were shown."""

    def __init__(self, index: Index, examples: Sequence[str], masks: Path | None, limits: Limits) -> None:
        self.index, self.examples, self.masks = index, examples, masks
        # A sentence takes milliseconds, a photo that is encoded or explained up to a second: it waits elsewhere.
        self.sentences = ModelQueue(index.search, longest=limits.queue)
        self.slow = ModelQueue(index.search, longest=max(1, limits.queue // SLOWNESS))
        self.threads, self.pictures = PictureThreads(), PictureCache()
        self.counters = Counters(
            photos=len(index), waiting=lambda: len(self.sentences.waiting) + len(self.slow.waiting)
        )
        self.about_page: About | None = None

    async def start(self) -> None:
        """Load the model before the first search."""
        self.about_page = await self.sentences.call(about, self.index, self.examples, self.masks)

    async def health(self) -> Health:
        """Whether the server answers, and for how many photos."""
        return Health(status="ok", photos=len(self.index))

    async def about(self) -> About:
        """What the index holds, what the model is and how it scored."""
        assert self.about_page is not None, "the server has not started"
        return self.about_page

    async def metrics(self) -> PlainTextResponse:
        """Counters in the text format of Prometheus."""
        return PlainTextResponse(self.counters.text(), media_type="text/plain; version=0.0.4")

    async def search(self, parameters: Annotated[SearchParameters, Parameters()]) -> Any:
        """The photos that a sentence describes, or those like an indexed one (`like`), or both weighted."""
        return await self._answer(parameters, None)

    async def search_by_photo(self, request: Request, parameters: Annotated[SearchParameters, Parameters()]) -> Any:
        """The photos like the one in the body of the request, and like the sentence where one is given.

        `curl --data-binary @dog.jpg -H "Content-Type: image/jpeg" "http://127.0.0.1:8000/api/search?top=5"`
        """
        kind = request.headers.get("content-type", "")
        if not kind.startswith(("image/", "application/octet-stream")):
            raise Refused(415, f"content-type {kind[:100]!r}: send the photo itself as the body, as image/jpeg")
        if parameters.like:
            raise Refused(400, "like= and a photo in the body: give one of them")
        photo = await request.body()
        digest = hashlib.sha256(photo).hexdigest()
        return await self._answer(parameters, await self.threads.call(sent_photo, photo), digest)

    async def explain(self, parameters: Annotated[ExplainParameters, Parameters()]) -> Any:
        """Which parts of a photo make it similar to a sentence."""
        self._file(parameters.id)
        return await self.slow.call(self._explained, parameters.id, parameters.q)

    async def thumbnail(self, id: str) -> Response:
        """A small JPEG of an indexed photo."""
        return await self._jpeg(id, THUMBNAIL)

    async def photo(self, id: str) -> Response:
        """A JPEG of an indexed photo, for a whole screen."""
        return await self._jpeg(id, WHOLE)

    async def _answer(self, parameters: SearchParameters, image: Any, digest: str = "") -> Any:
        if parameters.filter and not (parameters.q.strip() or image or parameters.like or parameters.without):
            return await self.sentences.call(self._browse, parameters)
        query = Query(
            text=parameters.q.strip() or None,
            image=image,
            sha256=digest,
            like=parameters.like or None,
            text_weight=parameters.text_weight,
            without=tuple(parameters.without),
            filters=tuple(parameters.filter),
        )
        queue = self.sentences if image is None else self.slow
        answer = await queue.ask(query, parameters.top)
        return SearchAnswer.model_validate(answer.to_json() | {"query": query.text or ""})

    def _browse(self, parameters: SearchParameters) -> SearchAnswer:
        """Filters without a sentence: what they let through, in the order of the index."""
        allowed = allowed_rows(parameters.filter, self.index)
        rows = () if allowed is None else allowed.nonzero()[0][: parameters.top]
        ids, files = (self.index.column(name).tolist() for name in ("id", "file"))
        results = [PhotoResult(id=ids[row], file=files[row], score=None, probability=None) for row in rows]
        return SearchAnswer(query="", answerable=None, matches=None, results=results)

    def _explained(self, photo: str, sentence: str) -> ExplainAnswer:
        file = self._file(photo)
        explanation = self.index.retriever.explain(file, sentence, mask=mask_of(self.masks, file))
        picture = base64.b64encode(heat_png(explanation.heat(HEAT))).decode()
        return ExplainAnswer(id=photo, heat=f"data:image/png;base64,{picture}", **explanation.to_json(maps=False))

    async def _jpeg(self, photo: str, side: int) -> Response:
        file = self._file(photo)
        try:
            return Response(
                await self.threads.call(self.pictures.jpeg, file, side), media_type="image/jpeg", headers=CACHED
            )
        except DataError as error:  # the page learns nothing of folders
            log.warning("%s", error)
            raise Refused(404, "the photo has changed or is gone since it was indexed") from error

    def _file(self, photo: str) -> Path:
        try:
            return self.index.photo_path(photo)
        except KeyError:
            raise Refused(404, "no photo of this index has that id") from None


def mask_of(masks: Path | None, file: Path) -> Path | None:
    """The class numbers of a photo, below the folder of masks under the photo's path or the end of it."""
    if masks is None:
        return None
    steps = file.with_suffix(".png").parts[1:]
    return next((mask for start in range(len(steps)) if (mask := masks.joinpath(*steps[start:])).is_file()), None)
