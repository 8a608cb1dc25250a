"""Tables of captions as people have them: what is read, and what is refused with its lines."""

from __future__ import annotations

import csv
import io
import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from threeshnet.annotations.captions import read_captions
from threeshnet.annotations.common import tidy
from threeshnet.errors import DataError


def captions_of(folder: Path, name: str, content: str | bytes) -> list[tuple[str, str, str | None]]:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(line.file, line.caption, line.split) for line in read_captions(file)]


READ = {
    "blanks after commas": ("a.csv", 'file, caption\np.jpg, "A dog, wet."\n', ["A dog, wet."]),
    "semicolons": ("a.csv", "file;caption\np.jpg;A dog, wet.\n", ["A dog, wet."]),
    "tabs in a .csv": ("a.csv", "file\tcaption\np.jpg\tA dog, wet.\n", ["A dog, wet."]),
    "a .tsv with a header": ("a.tsv", "caption\tfile\nA dog.\tp.jpg\n", ["A dog."]),
    "what Excel says first": ("a.csv", "sep=;\nfile;caption\np.jpg;A dog.\n", ["A dog."]),
    "Excel's Unicode text": ("a.txt", "file\tcaption\r\np.jpg\tA dog.\r\n".encode("utf-16"), ["A dog."]),
    "UTF-8 with a mark": ("a.csv", "\ufefffile,caption\np.jpg,A dog.\n", ["A dog."]),
    "Kaggle's Flickr30k": ("a.csv", "image_name| comment_number| comment\np.jpg| 0| A dog .\n", ["A dog ."]),
    "line ends in cells": (
        "a.csv",
        'file,caption\r\np.jpg,"A dog\r\nruns."\r\n',
        ["A dog runs."],
    ),
    "doubled quotes": ("a.csv", 'file,caption\np.jpg,"""Stop"" it says."\n', ['"Stop" it says.']),
    "quotes inside of a cell": ("a.csv", 'file,caption\np.jpg,It says "stop".\n', ['It says "stop".']),
    "Flickr's tokens": ("a.txt", 'p.jpg#0\t"Stop" it says .\np.jpg#1\tA "dog .\n', ['"Stop" it says .', 'A "dog .']),
    "doubled quotes after a tab": ("a.txt", 'p.jpg\t"It says ""stop"", twice"\n', ['It says "stop", twice']),
    "separators of Unicode": ("a.csv", "file,caption\np.jpg,A\u2028dog\x85runs\x0b.\n", ["A dog runs ."]),
    "and in JSON": ("a.jsonl", '{"file": "p.jpg", "caption": "A\u2028dog"}\n', ["A dog"]),
    "a list of JSON": ("a.csv", 'file,caption\np.jpg,"[""A dog."", ""It\'s wet.""]"\n', ["A dog.", "It's wet."]),
    "a list of Python": ("a.csv", "file,caption\np.jpg,\"['A dog.', 'Two.']\"\n", ["A dog.", "Two."]),
    "brackets in a caption": ("a.csv", "file,caption\np.jpg,[sic] a dog [red]\n", ["[sic] a dog [red]"]),
    "parentheses": ("a.csv", 'file,caption\np.jpg,"(""Stop"") it says (red)"\n', ['("Stop") it says (red)']),
    "bytes as Python shows them": ("a.csv", "file,caption\np.jpg,b'A dog.'\n", ["A dog."]),
    # huggingface/datasets#5490, entitize/Fakeddit#4: pandas' own numbering, columns without a name.
    "columns without a name": ("a.csv", ",,file,caption\n0,0,p.jpg,A dog.\n", ["A dog."]),
    # pandas-dev/pandas#24681, #32084: words that pandas takes for no value.
    "words that are no values": ("a.csv", "file,caption\np.jpg,null\np.jpg,N/A\np.jpg,NaN\n", ["null", "N/A", "NaN"]),
    "a backslash": ("a.csv", 'file,caption\np.jpg,"C:\\dogs, ""\\"" and \\"\n', ['C:\\dogs, "\\" and \\']),
    "rows of nothing": ("a.csv", "file,caption\n,\n\np.jpg,A dog.\n", ["A dog."]),
}


@pytest.mark.parametrize("case", READ)
def test_what_tools_write_is_read(case: str, tmp_path: Path) -> None:
    name, content, captions = READ[case]
    assert captions_of(tmp_path, name, content) == [("p.jpg", caption, None) for caption in captions]


REFUSED = {
    "a comma that is not quoted": ("a.csv", "file,caption\np.jpg,A dog, wet.\n", "line 2: 3 cells, and 2 columns"),
    "a cell too few": ("a.csv", "file,caption,split\np.jpg,A dog.\n", "line 2: 2 cells, and 3 columns"),
    "a quote that is not closed": (
        "a.csv",
        'file,caption\np.jpg,"Stop” it says.\nq.jpg,A dog.\nr.jpg,"Quick" dogs.\n',
        "lines 2-4: a quote that is not closed.*\n.*line 4: text beside a quoted cell",
    ),
    "one that is closed by chance": (
        "a.csv",
        'file,caption\np.jpg,"Stop” it says.\nq.jpg,A dog.\nr.jpg,A disc of 5"\ns.jpg,x\n',
        "lines 2-4: rows of other photos in one quoted cell",
    ),
    "one at the end": ("a.csv", 'file,caption\np.jpg,A dog.\nq.jpg,"A cat.\n', "line 3: "),
    "columns of one name": ("a.csv", "file,caption,caption\np.jpg,a,b\n", "line 1: .*caption occurs more than once"),
    "two columns": (
        "a.csv",
        "file,caption,text\np.jpg,a,b\n",
        "caption and text both may be",
    ),
    "no header": ("a.csv", "p.jpg,A dog.\n", "its columns are p.jpg, a dog.; needed are file and caption"),
    "a split without a header": ("a.txt", "p.jpg\tA dog.\ttrain\n", "line 1: 3 cells; expected photo<TAB>caption"),
    "a header without captions": ("a.tsv", "file\tdescription\np.jpg\tA dog.\n", "columns are file, description"),
    "a list of NumPy": (
        "a.csv",
        "file,caption\np.jpg,['A dog.' 'Two.']\n",
        "line 2: a list that cannot be",
    ),
    "a list with a gap": ("a.csv", "file,caption\np.jpg,\"['A dog.', nan]\"\n", "line 2: a list that cannot be"),
    # pandas-dev/pandas#14122, cldf/csvw#4, BurntSushi/rust-csv#432: writers with an escape character.
    "an escaped separator": (
        "a.csv",
        "file,caption\np.jpg,A dog\\, wet.\n",
        "line 2: .*a backslash stands for an escape",
    ),
    "an escaped quote": (
        "a.csv",
        'file,caption\np.jpg,"A \\"wet\\" dog"\n',
        "line 2: a backslash stands for an escape",
    ),
    "an escaped quote alone": ("a.csv", 'file,caption\np.jpg,A \\"wet\\" dog\n', "line 2: a backslash stands for"),
    "single quotes": ("a.csv", "file,caption\np.jpg,'It''s wet'\n", "line 2: quoted with single quotes"),
    "carriage returns alone": ("a.csv", "file,caption\rp.jpg,A dog.\r", "lines end with a carriage return alone"),
    "a doubled quote beside a bare one": ("a.txt", 'p.jpg\t"A ""b"""\nq.jpg\t"C" d\n', "line 2: text beside"),
    "no tab": ("a.txt", "p.jpg A dog.\nq.jpg\tA cat.\n", "line 1: expected photo<TAB>caption, found 'p.jpg A dog.'"),
    "other columns": ("a.csv", "name,words\np.jpg,x\n", "its columns are name, words"),
    "no JSON": ("a.jsonl", '{"file": 1}\n{', "line 1: expected an object.*line 2: not JSON"),
    "a repeated key": ("a.jsonl", '{"file": "p", "caption": "a", "caption": "b"}\n', "line 1: .*a key is repeated"),
    "a number for a caption": ("a.jsonl", '{"file": "p", "caption": 5}\n', "line 1: caption=5: expected a text"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_never_taken_in_part(case: str, tmp_path: Path) -> None:
    name, content, said = REFUSED[case]
    with pytest.raises(DataError, match=rf"(?s){said}"):
        captions_of(tmp_path, name, content)


def test_an_id_of_zero_is_an_id_and_every_faulty_line_is_named(tmp_path: Path) -> None:
    assert captions_of(tmp_path, "a.jsonl", '{"file": 0, "caption": "A dog."}\n') == [("0", "A dog.", None)]
    with pytest.raises(DataError) as caught:
        captions_of(tmp_path, "a.csv", "file,caption\n" + "p.jpg,a,b\np.jpg,good\n" * 3)
    assert [f"line {number}:" in str(caught.value) for number in (2, 3, 4, 5, 6)] == [True, False, True, False, True]


def test_what_is_left_out_is_counted(command, tmp_path: Path) -> None:
    """flickr8kcn#2, deeplake#2061: captions were lost, and nothing said how many."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("p.png", "q.png", "r.png"):
        Image.new("RGB", (8, 8), "grey").save(raw / name)
    rows = ["file,caption", "p.png,A dog.", "p.png,A wet dog.", "gone.png,A cow.", "gone.png,Cows.", ""]
    (raw / "captions.csv").write_text("\n".join(rows))
    words = ["data=folder", f"raw={raw}", f"out={tmp_path / 's'}", "extractor=tiny", "workers=0", "progress=false"]
    ended = command("data", *words)
    assert ended.code == 0, ended.err
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ended.out.split("\n") if "│" in line]
    (made, rest) = cells
    assert made[1:5] == ["1", "2", "1", "0"]
    assert (rest[0], rest[4]) == ("no split", "4")  # captions of no photo, photos without a caption
    assert ended.out.count("caption of gone.png left out (no such photo)") == 2


CELLS = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\",;\t\n|'"), max_size=30)
TABLES = st.lists(CELLS, min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(
    TABLES,
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_any_table_that_the_csv_writer_writes_is_read_back(
    cells: list[str], separator: str, quoting: int, end: str, file_first: bool, encoding: str
) -> None:
    rows = [["file", "caption"], *([f"p{number}.jpg", cell] for number, cell in enumerate(cells))]
    written = io.StringIO()
    writer = csv.writer(written, delimiter=separator, quoting=quoting, lineterminator=end)
    writer.writerows(row if file_first else row[::-1] for row in rows)
    with tempfile.TemporaryDirectory() as folder:
        found = captions_of(Path(folder), "captions.csv", written.getvalue().encode(encoding))
    assert found == [(file, tidy(cell), None) for file, cell in rows[1:]]


DIALECTS = [
    dict(zip(("delimiter", "quotechar", "doublequote", "escapechar", "quoting"), values, strict=True))
    for values in itertools.product(",;\t|", "\"'", (True, False), (None, "\\"), range(4))
]
HARD = ["A dog, wet; and|brown.", 'It says "stop".', '"', "It's", "two\nlines", "a\tb", "'It'", "A dog."]


@pytest.mark.parametrize("quotechar", ['"', "'"])
def test_a_table_of_any_dialect_is_read_back_or_refused(quotechar: str, tmp_path: Path) -> None:
    """No caption is cut or changed, by whichever options the standard library's writer wrote it."""
    read = 0
    for dialect in (each for each in DIALECTS if each["quotechar"] == quotechar):
        for caption in HARD:
            written = io.StringIO()
            try:
                writer = csv.writer(written, lineterminator="\n", **dialect)
                writer.writerows([["file", "caption"], ["p.jpg", caption], ["q.jpg", "plain"]])
            except csv.Error:  # it cannot be written so
                continue
            try:
                found = captions_of(tmp_path, "a.csv", written.getvalue())
            except DataError:
                usual = dialect["quotechar"] == '"' and dialect["doublequote"] and dialect["escapechar"] is None
                assert not usual, (dialect, caption)
                continue
            read += 1
            if quotechar == '"' or caption not in ("It's", "'It'"):  # quoted and escaped there: a writer of its own
                assert [line[1] for line in found] == [tidy(caption), "plain"], (dialect, caption)
    assert read > 50
