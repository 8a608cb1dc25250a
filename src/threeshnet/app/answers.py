"""What is asked and answered, as types: the OpenAPI page of the server is made of them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

SENTENCE, WORDS, SEVERAL = 1000, 200, 20  # characters of a query, of a filter or negative; how many of these
MOST = 200  # photos of an answer
Word = Annotated[str, Field(min_length=1, max_length=WORDS)]
Id = Annotated[str, Field(max_length=4096)]


class SearchParameters(BaseModel):
    """A search."""

    model_config = ConfigDict(extra="forbid")
    q: str = Field("", max_length=SENTENCE, description="a sentence in English")
    like: Id = Field("", description="id of an indexed photo: photos like it")
    text_weight: float = Field(0.5, ge=0, le=1, description="of the sentence, beside a photo")
    without: list[Word] = Field([], max_length=SEVERAL, description="what the photo should not show")
    filter: list[Word] = Field([], max_length=SEVERAL, description="as on the command line: has:dog, sky:top")
    top: int = Field(10, ge=1, le=MOST, description="how many photos")


class ExplainParameters(BaseModel):
    """A photo and the sentence that it was found by."""

    model_config = ConfigDict(extra="forbid")
    id: Id
    q: str = Field(min_length=1, max_length=SENTENCE)


class PhotoResult(BaseModel):
    """One photo of an answer."""

    id: str
    file: str | None
    score: float | None = Field(description="similarity; null where only filters were given")
    probability: float | None = Field(
        description="that this photo is an answer; null where the model has no calibration"
    )
    duplicates: list[str] = Field(default=[], description="ids of near-duplicates that were folded into it")


class SearchAnswer(BaseModel):
    """An answer."""

    query: str
    answerable: float | None = Field(description="probability that the index holds an answer at all")
    matches: bool | None = Field(description="false: nothing matches, and the nearest photos are given")
    results: list[PhotoResult]


class ExplainAnswer(BaseModel):
    """An explanation: all of `threeshnet explain`, and its map as a picture to be laid over the photo."""

    model_config = ConfigDict(extra="allow")
    id: str
    heat: str = Field(description="data URI of a transparent PNG")


class ClassCount(BaseModel):
    """In how many photos a class occurs."""

    name: str
    photos: int


class About(BaseModel):
    """The model and the index."""

    name: str
    photos: int
    calibrated: bool = Field(description="whether answers have probabilities")
    photo_refused: str = Field(description="why no photos but indexed ones can be sent; empty where others can")
    explanation_refused: str = Field(description="why there are no explanations; empty where there are")
    classes: list[ClassCount]
    examples: list[str]
    facts: dict[str, Any] = Field(description="of the training")
    scores: dict[str, Any] = Field(description="metrics.json of the run, as far as it is at hand")


class Health(BaseModel):
    """The server answers."""

    status: str
    photos: int


class Fault(BaseModel):
    """ExplainAnswer a request was refused."""

    error: str
