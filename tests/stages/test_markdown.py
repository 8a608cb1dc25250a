"""Generated parts of a README: only what stands between the marks changes, and a README without marks is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threeshnet.errors import ConfigError
from threeshnet.reports.markdown import fill, filled

README = Path("README.md")
words = st.text(alphabet="ab |\n-", max_size=12)


@given(before=words, between=words, after=words, first=words, second=words)
def test_what_stands_outside_the_marks_stays(before: str, between: str, after: str, first: str, second: str) -> None:
    text = f"{before}<!-- one -->old<!-- /one -->{between}<!-- two -->old<!-- /two -->{after}"
    expected = f"{before}<!-- one -->\n{first}\n<!-- /one -->{between}<!-- two -->\n{second}\n<!-- /two -->{after}"
    parts = {"two": second, "one": first}
    assert filled(text, parts, README) == expected
    assert filled(expected, parts, README) == expected


@pytest.mark.parametrize("text", ["", "<!-- one -->", "<!-- /one --><!-- one -->", 2 * "<!-- one --><!-- /one -->"])
def test_marks_that_do_not_stand_there_once_are_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text(text)
    with pytest.raises(ConfigError, match="<!-- one --> and <!-- /one --> must stand there once") as error:
        fill(file, {"one": "table", "two": "table"})
    assert "<!-- /two -->" in str(error.value)
    assert str(file) in str(error.value)
    assert file.read_text() == text


def test_without_a_readme_nothing_is_written(tmp_path: Path) -> None:
    fill(tmp_path / "README.md", {"one": "table"})
    assert not list(tmp_path.iterdir())
