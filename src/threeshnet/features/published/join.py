"""Several published sources, and captions, joined by image id into one data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from threeshnet.annotations.caption_lists import NUMBERINGS
from threeshnet.errors import DataError, Problems, some
from threeshnet.features.extractor import FIELDS
from threeshnet.features.published.arrays import PublishedArrays, too_many
from threeshnet.features.published.ids import matched_ids
from threeshnet.features.published.layout import Entry, Request, Source
from threeshnet.records import AnnotatedSet, Photo

NO_CAPTIONS = (
    "no captions: name them with captions=<dataset_*.json, captions_*.json of COCO, or captions.txt, .csv, .jsonl>, or "
    "import from a folder with <split>_caps.txt and <split>_ids.txt as well: raw=[<that folder>,<this one>]"
)


Provider = tuple[Source, tuple[str, ...]]  # a source and the fields that it gives
Numberings = Callable[[str], Sequence[str]]  # a name of NUMBERINGS to the ids of all photos, none where it is unknown


class Joined(NamedTuple):
    """A data set of published arrays, with what was remarked on the way."""

    annotated: AnnotatedSet
    extractors: tuple[PublishedArrays, ...]
    remarks: tuple[str, ...]


def joined(
    sources: Sequence[Source],
    *,
    name: str,
    captions: AnnotatedSet | None,
    request: Request,
    most: int,
    options: Mapping[str, Any],
    problems: Problems,
    numberings: Numberings = lambda _: (),
) -> Joined:
    """Photos with a caption that every source has, and an extractor a source for the fields that it gives.

    The first source of a field gives it. `most` and `options` are of `PublishedArrays`; `numberings` gives the ids of
    `captions` in another numbering. Raises DataError once for all that is wrong, and where most ids do not match.
    """
    remarks = [remark for source in sources for remark in source.remarks]
    base = captions.photos if captions else _photos(sources)
    if not base and not problems:
        problems.add(NO_CAPTIONS)
    left_out = list(captions.problems if captions else ())
    left_out += [line for source in sources for line in source.left_out]
    photos = _of_splits(base, request, left_out, problems)
    photos = _with_captions(_without_test_in_testall(photos, left_out), left_out)
    providers = _givers(sources, request, remarks, problems)
    problems.raise_as(DataError, "nothing was written")
    keys = []
    for source, _ in providers:
        check_ids([photo.id for photo in photos], source, numberings)
        photos, matches = _joined_to(photos, source, remarks, left_out)
        keys.append(matches)
    if not photos:
        raise DataError(
            "no image is in all sources:\n" + "\n".join(f"  - {line}" for line in left_out[-len(providers) :])
        )
    entries = [{photo.id: by_id[photo.id] for photo in photos} for by_id in keys]
    photos = _with_facts(photos, [source for source, _ in providers], entries)
    _check_twice(photos, problems)
    _check_counts(providers, entries, most, options, problems)
    problems.raise_as(DataError, "nothing was written")
    extractors = tuple(
        PublishedArrays(
            source=source,
            fields=fields,
            keys={photo: entry.key for photo, entry in by_id.items()},
            most=most,
            with_boxes=_boxes_usable(source, photos, remarks),
            **options,
        )
        for (source, fields), by_id in zip(providers, entries, strict=True)
    )
    return Joined(AnnotatedSet(name, tuple(photos), problems=tuple(left_out)), extractors, tuple(remarks))


def _photos(sources: Sequence[Source]) -> tuple[Photo, ...]:
    """The images of the first source that has captions."""
    entries = next((source.entries for source in sources if any(entry.captions for entry in source.entries)), ())
    return tuple(Photo(e.id, e.file, e.split or "train", e.captions, size=e.size) for e in entries)


def _of_splits(photos: Sequence[Photo], request: Request, left_out: list[str], problems: Problems) -> list[Photo]:
    there = dict.fromkeys(photo.split for photo in photos)
    if request.splits is None:
        return list(photos)
    absent = [split for split in request.splits if split not in there]
    if absent and photos:
        problems.add(f"splits={list(request.splits)}: there is no {', '.join(absent)}; there are: {', '.join(there)}")
    if gone := [split for split in there if split not in request.splits]:
        left_out.append(f"splits left out: {', '.join(gone)}")
    return [photo for photo in photos if photo.split in request.splits]


def _without_test_in_testall(photos: list[Photo], left_out: list[str]) -> list[Photo]:
    """COCO's 1,000 `test` images are among the 5,000 of `testall`, and an id has one place in a data set."""
    whole = {photo.id for photo in photos if photo.split == "testall"}
    test = [photo for photo in photos if photo.split == "test"]
    both = sum(photo.id in whole for photo in test)
    if not both:
        return photos
    keep = "to import it instead: splits=[…,test] without testall"
    left_out.append(f"split test: {both} of its {len(test)} images are in testall too; test was left out ({keep})")
    return [photo for photo in photos if photo.split != "test"]


def _with_captions(photos: list[Photo], left_out: list[str]) -> list[Photo]:
    kept = []
    for photo in photos:
        captions = tuple(caption for caption in photo.captions if caption.strip())
        if empty := len(photo.captions) - len(captions):
            left_out.append(f"{photo.split}: photo {photo.id}: {empty} empty captions left out")
        if captions:
            kept.append(photo._replace(captions=captions))
        else:
            left_out.append(f"{photo.split}: photo {photo.id}: left without a caption, so left out")
    return kept


def _givers(sources: Sequence[Source], request: Request, remarks: list[str], problems: Problems) -> list[Provider]:
    """Which source gives which fields."""
    provider: dict[str, int] = {}
    for number, source in enumerate(sources):
        for field in source.fields:
            if request.wants(field) and provider.setdefault(field, number) != number:
                first = sources[provider[field]]
                remarks.append(f"{field} is in {first.raw} and in {source.raw}; the first gives it")
    wanted = request.fields or ()
    absent = [field for field in wanted if field not in provider]
    there = ", ".join(dict.fromkeys(field for source in sources for field in source.fields))
    if absent:
        problems.add(f"fields={list(wanted)}: no source has {', '.join(absent)}; there are: {there or 'none'}")
    elif not provider and not problems:
        problems.add("there are captions and no arrays; add the folder of the arrays: raw=[<this one>,<the other>]")
    fields = {number: tuple(field for field in FIELDS if provider.get(field) == number) for number in provider.values()}
    return [(sources[number], fields[number]) for number in sorted(fields)]


def check_ids(wanted: Sequence[str], source: Source, numberings: Numberings) -> None:
    """DataError where most ids of the smaller side are missed, or another numbering of the captions matches more."""
    there = list(dict.fromkeys(entry.id for entry in source.entries))
    count, fewer = len(matched_ids(wanted, there)[0]), min(len(set(wanted)), len(there))
    if count == fewer:
        return
    others = {name: len(matched_ids(ids, there)[0]) for name in NUMBERINGS if (ids := numberings(name))}
    best = max(others, key=lambda name: others[name], default="")
    better = best and others[best] > count
    if count * 2 < fewer or better:
        sides = f"captions have {some(list(wanted))}; {source.raw} has {some(there)}"
        way_out = (
            f"ids={best} would match {others[best]}" if better else "name the captions that belong to these arrays"
        )
        raise DataError(f"only {count} of {fewer} ids are on both sides: {sides}. {way_out}. Nothing was written.")


def _joined_to(
    photos: list[Photo], source: Source, remarks: list[str], left_out: list[str]
) -> tuple[list[Photo], dict[str, Entry]]:
    """The photos that the source has, and its entry of each; the others of both sides are reported."""
    by_id: dict[str, Entry] = {}
    for entry in source.entries:
        by_id.setdefault(entry.id, entry)
    same, normalised = matched_ids([photo.id for photo in photos], list(by_id))
    kept = [photo for photo in photos if photo.id in same]
    if normalised and kept:
        ours, theirs = kept[0].id, same[kept[0].id]
        remarks.append(f"{source.raw}: joined by ids without folders, endings and leading zeros: {theirs} is {ours}")
    if len(kept) < len(photos):
        lost = [photo.id for photo in photos if photo.id not in same]
        left_out.append(f"{len(lost)} of {len(photos)} images have no arrays in {source.raw}: {some(lost)}")
    if unused := len(by_id) - len(kept):
        used = set(same.values())
        names = [name for name in by_id if name not in used]
        left_out.append(f"{unused} of {len(by_id)} images of {source.raw} have no caption: {some(names)}")
    return kept, {photo.id: by_id[same[photo.id]] for photo in kept}


def _with_facts(photos: list[Photo], sources: Sequence[Source], entries: Sequence[Mapping[str, Entry]]) -> list[Photo]:
    """Sizes from the source that knows them: boxes count in its pixels."""
    measured = [by_id for source, by_id in zip(sources, entries, strict=True) if source.boxes == "pixels"]
    for by_id in [*measured, *entries]:
        photos = [photo if photo.size else photo._replace(size=by_id[photo.id].size) for photo in photos]
    return photos


def _check_twice(photos: Sequence[Photo], problems: Problems) -> None:
    first: dict[str, str] = {}
    twice: dict[tuple[str, str], list[str]] = {}
    for photo in photos:
        if photo.id in first:
            twice.setdefault((first[photo.id], photo.split), []).append(photo.id)
        first.setdefault(photo.id, photo.split)
    for (one, other), names in twice.items():
        where = f"twice in {one}" if one == other else f"in {one} and in {other}"
        problems.add(f"{len(names)} images are {where}: {some(names)}; choose with splits=[…]")


def _check_counts(
    providers: Sequence[Provider],
    entries: Sequence[Mapping[str, Entry]],
    most: int,
    options: Mapping[str, Any],
    problems: Problems,
) -> None:
    for (source, fields), by_id in zip(providers, entries, strict=True):
        crowded = [(name, entry.regions) for name, entry in by_id.items() if (entry.regions or 0) > most]
        if "region" in fields and crowded and not source.scores and options.get("surplus") is None:
            problems.add(f"{source.raw}: {len(crowded)} images; {too_many(crowded[0][0], crowded[0][1] or 0, most)}")
        for field in fields:
            kinds = {"float32" if kind == "float64" else kind for kind in source.dtypes[field]}
            if len(kinds) > 1 and options.get("dtype") is None:
                problems.add(f"{source.raw}: {field} of types {', '.join(sorted(kinds))}; choose one: dtype=float32")


def _boxes_usable(source: Source, photos: Sequence[Photo], remarks: list[str]) -> bool:
    """Boxes in pixels need every photo's size."""
    if "float64" in {kind for kinds in source.dtypes.values() for kind in kinds}:
        remarks.append(f"{source.raw}: float64 becomes float32")
    if source.boxes == "none":
        return False
    unsized = [photo.id for photo in photos if photo.size is None]
    if source.boxes == "pixels" and unsized:
        remarks.append(f"{source.raw}: boxes in pixels left out, {len(unsized)} photos have no size: {some(unsized)}")
        return False
    if not source.scores:
        remarks.append(f"{source.raw}: boxes without scores; every region's score is written as 1")
    return True
