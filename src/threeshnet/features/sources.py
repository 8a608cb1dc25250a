"""Which extractors a model's photos go through: those that its card names, or those that the caller gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hydra.utils import instantiate
from omegaconf import OmegaConf

from threeshnet.errors import CheckpointError, ConfigError, Problems, ThreeSHNetError, one_of
from threeshnet.features.extractor import Extractor
from threeshnet.features.recipes import built
from threeshnet.features.segmentation import AnnotatedSegmentation
from threeshnet.installation import conf_files
from threeshnet.records import AnnotatedSet

Makers = Mapping[str, Mapping[str, Any]]  # what a card says about each field
IDENTITY = ("name", "version", "weights", "options")
SHOWN = 60  # characters of an entry of an identity
GROUPS = {"extractor": "extractor", "grid": "extractor", "segmentation": "segmentation"}  # argument -> folder of conf


class Given(NamedTuple):
    """Extractors that the caller names: yaml names, mappings with `_target_`, objects, or None."""

    extractor: Any = None
    grid: Any = None
    segmentation: Any = None


class Maker(NamedTuple):
    """An extractor, asked for its fields, and how it is run."""

    source: Extractor
    precision: str = ""  # as Lightning names it
    dtypes: tuple[str, ...] = ()  # of its features in the shards


def chosen(fields: Sequence[str], makers: Makers, given: Given, class_names: Sequence[str] = ()) -> list[Maker]:
    """The extractors of `fields`; `makers` is what the card says about each field, nothing in files that do not.

    Raises CheckpointError once for all fields whose extractor is missing or is not the one of the training.
    """
    named = AnnotatedSet("", (), tuple(class_names))
    own = {key: as_extractor(key, value, named) for key, value in given._asdict().items()}
    problems, picked = Problems("extractors of the photos"), {}
    from_card: list[tuple[Any, Extractor]] = []
    for field in fields:
        maker = makers.get(field, {})
        recipe = maker.get("recipe")
        try:
            source = _given(field, makers, own) or (_from_card(recipe, from_card, named) if recipe else None)
        except ThreeSHNetError as error:
            problems.add(f"{field}: {error}")
            continue
        if source is None:
            problems.add(f"{field}: {_unknown(maker)}")
        elif not source.needs_pixels and not isinstance(source, AnnotatedSegmentation):
            problems.add(f"{field}: {source.name} makes nothing out of a photo alone")
        elif recipe and (differences := _differences(maker, source.identity())):
            problems.add(f"{field}: the training had another extractor: {differences}")
        else:
            picked[field] = source
    problems.raise_as(
        CheckpointError,
        "Give them: Retriever.load(…, extractor=<name>, grid=<name>, segmentation=<name>), where needed. Names of "
        f"extractors: {', '.join(names('extractor'))}; of segmentations: {', '.join(names('segmentation'))}.",
    )
    made = []
    for source in dict.fromkeys(picked.values()):
        own = [field for field in picked if picked[field] is source]
        facts = [makers.get(field, {}) for field in own]
        precision = next((maker["precision"] for maker in facts if maker.get("precision")), "")
        made.append(Maker(source.only(own), precision, tuple(maker.get("dtype", "") for maker in facts)))
    return made


def names(group: str) -> list[str]:
    """The yaml names of a group of the configuration."""
    return sorted(conf_files(group))


def as_extractor(key: str, value: Any, named: AnnotatedSet) -> Extractor | None:
    """The extractor that the caller means; ConfigError for a name that does not exist."""
    if value is None:
        return None
    if isinstance(value, str):
        if value not in names(GROUPS[key]):
            raise ConfigError(one_of(key, value, names(GROUPS[key])))
        value = OmegaConf.load(conf_files(GROUPS[key])[value])
    made = value if isinstance(value, Extractor) else instantiate(value, _convert_="all")
    if not isinstance(made, Extractor):
        raise ConfigError(f"{key}={made!r} is no Extractor")
    return made.prepare(named)


def _given(field: str, makers: Makers, own: Mapping[str, Extractor | None]) -> Extractor | None:
    """The caller's choice for a field. `extractor` takes over the segmentation only where it was made with the rest."""
    special = own["grid"] if field == "grid" else own["segmentation"] if field == "seg" else None
    if special is not None:
        return special
    extractor = own["extractor"]
    if extractor is None or field not in extractor.fields:
        return None
    recipes = {name: maker.get("recipe") for name, maker in makers.items()}
    other = recipes.get(field) and all(recipes[name] != recipes[field] for name in recipes if name != field)
    return None if field == "seg" and other and len(recipes) > 1 else extractor


def _from_card(recipe: Any, there: list[tuple[Any, Extractor]], named: AnnotatedSet) -> Extractor | None:
    """The extractor of a recipe, the same one for fields with the same recipe."""
    source = next((source_there for its, source_there in there if its == recipe), None)
    if source is None:
        source = built(recipe)
        source = source.prepare(named) if isinstance(source, AnnotatedSegmentation) else source
        there.append((recipe, source))
    return source


def _unknown(maker: Mapping[str, Any]) -> str:
    if maker.get("name"):
        return f"the training read {maker['name']}, which is no extractor that can be built from the checkpoint"
    return "the checkpoint does not say what made it (it is the authors', or was written by an earlier version)"


def _differences(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{key} {str(expected.get(key))[:SHOWN]!r} was expected, {str(actual.get(key))[:SHOWN]!r} is here"
        for key in IDENTITY
        if expected.get(key) != actual.get(key)
    )
