"""BERT's wordpiece tokenizer, over any BERT vocabulary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from threeshnet.errors import DataError, Problems
from threeshnet.records import TokenSet

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
USUAL = {"strip_accents": None, "split_chinese": True, "specials": list(SPECIALS)}
NORMALIZER = {"lowercase": "lowercase", "strip_accents": "strip_accents", "handle_chinese_chars": "split_chinese"}
CONFIG = {"do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "split_chinese"}
CLS_AND_SEP = 2  # wordpieces that every sentence has in addition


class WordpieceIds(NamedTuple):
    """The ids of one sentence; `words` is the word number of each id, None for [CLS] and [SEP]."""

    ids: list[int]
    words: list[int | None]


class Wordpieces:
    """BERT's tokenizer over a given vocabulary: the line number of a wordpiece is its id.

    >>> tokenizer = Wordpieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "bike", "##s"])
    >>> tokenizer.encode(["A bikes"])
    [WordpieceIds(ids=[2, 5, 6, 7, 3], words=[None, 0, 1, 1, None])]
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        *,
        max_wordpieces: int = 128,
        lowercase: bool = True,
        strip_accents: bool | None = None,
        split_chinese: bool = True,
        specials: Sequence[str] = SPECIALS,
    ) -> None:
        """`strip_accents`: None does as `lowercase`. `specials`: the names of [PAD], [UNK], [CLS], [SEP] and [MASK].

        Raises DataError for a vocabulary that lacks a special wordpiece, names one twice or holds a line end.
        """
        self.vocabulary = list(vocabulary)
        self.max_wordpieces = max_wordpieces
        self.lowercase = lowercase
        chosen = {"strip_accents": strip_accents, "split_chinese": split_chinese, "specials": list(specials)}
        self.options = {"max_wordpieces": max_wordpieces, "lowercase": lowercase}  # all that differ from the usual BERT
        self.options |= {name: value for name, value in chosen.items() if value != USUAL[name]}
        numbers = {piece: number for number, piece in enumerate(self.vocabulary)}
        _check(self.vocabulary, numbers, max_wordpieces, specials)
        self.pad_id, self.unknown_id, self.cls_id, self.sep_id, self.mask_id = (numbers[name] for name in specials)
        self.special_ids = frozenset(numbers[name] for name in specials)
        self._tokenizer = _bert_tokenizer(numbers, max_wordpieces, specials)
        self._tokenizer.normalizer = BertNormalizer(
            lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=split_chinese
        )

    @classmethod
    def from_file(cls, path: Path | str, *, max_wordpieces: int = 128, **options: Any) -> Wordpieces:
        """From a `vocab.txt` (one wordpiece a line), or from the folder that holds it, by the settings of that folder.

        `options` come before the folder's. Without settings a vocabulary with capital letters keeps the case.
        """
        file = Path(path)
        file = file / "vocab.txt" if file.is_dir() else file
        if not file.is_file():
            way_out = "give a BERT `vocab.txt` (one wordpiece a line) or its folder"
            raise DataError(f"{file}: no such vocabulary; {way_out}")
        lines = file.read_text(encoding="utf-8-sig").removesuffix("\n")
        options_here = folder_options(file.parent) | options
        if "lowercase" not in options_here:
            specials = options_here.get("specials", SPECIALS)
            options_here["lowercase"] = all(piece == piece.lower() or piece in specials for piece in lines.split("\n"))
        try:
            return cls.from_lines(lines, max_wordpieces=max_wordpieces, **options_here)
        except DataError as error:
            raise DataError(f"{file}: {error}") from error

    @classmethod
    def from_lines(cls, lines: str, **options: Any) -> Wordpieces:
        """From one text, a wordpiece a line: what `lines` gives; `options` are those of the class."""
        # Not splitlines(): BERT's vocabulary contains characters that Python treats as line ends.
        return cls(lines.split("\n"), **options)

    @property
    def lines(self) -> str:
        """The vocabulary as one text, as in a `vocab.txt`."""
        return "\n".join(self.vocabulary)

    def to_json(self) -> str:
        """The whole tokenizer as a `tokenizer.json`, which the package tokenizers reads alone."""
        return self._tokenizer.to_str(pretty=True)

    def __len__(self) -> int:
        return len(self.vocabulary)

    def encode(self, captions: Sequence[str]) -> list[WordpieceIds]:
        """Wordpieces of each sentence, from [CLS] to [SEP], cut to `max_wordpieces` in total."""
        # Not encode_batch: it starts threads, which do not survive the fork of a data loader's workers.
        encodings = [self._tokenizer.encode(caption) for caption in captions]
        return [WordpieceIds(encoding.ids, encoding.word_ids) for encoding in encodings]

    def pad(self, sentences: Sequence[Sequence[int] | np.ndarray]) -> TokenSet:
        """Ids of B sentences as one [B, N] int64 set, with N the longest length."""
        longest = max((len(ids) for ids in sentences), default=0)
        values = np.full((len(sentences), longest), self.pad_id, dtype=np.int64)
        for row, ids in enumerate(sentences):  # in NumPy: an assignment in torch takes longer
            values[row, : len(ids)] = ids
        lengths = np.array([len(ids) for ids in sentences], dtype=np.int64)
        mask = np.arange(longest) < lengths[:, None]
        return TokenSet(torch.from_numpy(values), torch.from_numpy(mask))

    def __call__(self, captions: Sequence[str]) -> TokenSet:
        """Sentences to a padded [B, N] set of ids, unaltered."""
        return self.pad([sentence.ids for sentence in self.encode(captions)])


def folder_options(folder: Path) -> dict[str, Any]:
    """The options in a tokenizer's folder: `tokenizer_config.json`, and `tokenizer.json` where that is silent."""
    settings = _settings(folder / "tokenizer.json").get("normalizer") or {}
    options_here: dict[str, Any] = {ours: settings.get(name) for name, ours in NORMALIZER.items()}
    config = _settings(folder / "tokenizer_config.json")
    options_here |= {ours: config[name] for name, ours in CONFIG.items() if name in config}
    options_here = {name: value for name, value in options_here.items() if isinstance(value, bool)}
    named = [config.get(f"{kind}_token") for kind in ("pad", "unk", "cls", "sep", "mask")]
    words = [name.get("content") if isinstance(name, dict) else name for name in named]
    if any(words):
        options_here["specials"] = [word or usual for word, usual in zip(words, SPECIALS, strict=True)]
    return options_here


def _settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not readable JSON ({error}); copy or download it again") from error
    return content if isinstance(content, dict) else {}


def _check(vocabulary: list[str], numbers: dict[str, int], max_wordpieces: int, specials: Sequence[str]) -> None:
    problems = Problems(f"vocabulary of {len(vocabulary)} wordpieces")
    problems.extend(f"{name} is missing" for name in specials if name not in numbers)
    twice = [piece for number, piece in enumerate(vocabulary) if numbers[piece] != number]
    problems.extend(f"{piece!r} occurs more than once" for piece in twice)
    problems.extend(f"{piece!r} contains a line end" for piece in vocabulary if "\n" in piece)
    if max_wordpieces <= CLS_AND_SEP:
        problems.add(f"max_wordpieces={max_wordpieces} leaves no room for a word beside [CLS] and [SEP]")
    problems.raise_as(DataError, "A BERT `vocab.txt` has one wordpiece a line, each once.")


def _bert_tokenizer(numbers: dict[str, int], max_wordpieces: int, specials: Sequence[str]) -> Tokenizer:
    _, unknown, begin, end, _ = specials
    tokenizer = Tokenizer(WordPiece(numbers, unk_token=unknown, max_input_chars_per_word=100))  # 100: BERT's own
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(name, numbers[name]) for name in (begin, end)]
    )
    tokenizer.enable_truncation(max_wordpieces)
    return tokenizer
