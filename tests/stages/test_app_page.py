"""The page in a real browser: every state that a user can bring it to."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest

from threeshnet.index.index import Index
from threeshnet.index.query import Query

from .app_server import serving

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
PHONE = {"width": 390, "height": 844}
PATIENCE = 30_000  # milliseconds
DROP = """([name, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
  for (const kind of ["dragenter", "dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
}"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def index(photo_index: Path) -> Index:
    return Index.open(photo_index)


@pytest.fixture(scope="module")
def url(index: Index) -> Iterator[str]:
    with serving(index, examples=["a red ball", "two cats"]) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def opened(browser: Any, url: str) -> Iterator[Any]:
    """Opens the page in a new window; at the end its console is clean, and it has asked nobody but the server."""
    windows, wrong = [], []

    def open_page(path: str = "", **options: Any) -> Any:
        window = browser.new_context(viewport=options.pop("viewport", {"width": 1200, "height": 800}), **options)
        page = window.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if "Content Security" in message.text else None)
        page.on(
            "request", lambda each: wrong.append(each.url) if not each.url.startswith((url, "blob:", "data:")) else None
        )
        windows.append(window)
        page.goto(url + path)
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_page
    for window in windows:
        window.close()
    assert wrong == []


def search(page: Any, text: str) -> None:
    page.fill("#q", text)
    page.press("#q", "Enter")
    page.wait_for_selector(".card")
    page.wait_for_selector("#results:not([aria-busy])", state="attached")


def status(page: Any) -> str:
    return page.inner_text("#status")


def answered(page: Any, change: Any) -> Any:
    """The answer to the search that follows a change."""
    with page.expect_response(lambda response: "/api/search" in response.url) as response:
        change()
    page.wait_for_selector("#results:not([aria-busy])", state="attached")
    return response.value


def faked(page: Any, path: str, change: Any) -> None:
    """Answers of one route with some values changed: states that a model of one training step does not reach."""

    def handle(route: Any) -> None:
        content = route.fetch().json()
        change(content)
        route.fulfill(json=content)

    page.route(re.compile(path), handle)


def judged(page: Any, probability: float | None, **answer: float | bool | None) -> None:
    """Answers of a calibration, or of a model without one; every photo is a match with this probability."""

    def change(content: dict[str, Any]) -> None:
        content |= answer | {"results": [each | {"probability": probability} for each in content["results"]]}

    faked(page, "/api/search", change)


def test_an_example_is_a_search(opened: Any, index: Index) -> None:
    page = opened()
    assert page.locator(".examples .chip").all_inner_texts() == ["a red ball", "two cats"]
    assert not page.locator(".card").count()
    page.click("text=a red ball")
    page.wait_for_selector(".card")
    assert page.input_value("#q") == "a red ball"
    assert page.url.endswith("?q=a+red+ball")
    (answer,) = index.search([Query("a red ball")], 24)
    assert page.locator(".card").count() == len(answer.results)
    assert f"{len(answer.results)} of 20 photos for “a red ball”" in status(page)
    for card in page.locator(".card img").all():
        card.scroll_into_view_if_needed()  # pictures load when they are about to be seen
    page.wait_for_load_state("networkidle")
    assert all(card.evaluate("image => image.naturalWidth") > 0 for card in page.locator(".card img").all())


def test_without_a_calibration_similarities_are_shown(opened: Any) -> None:
    page = opened()
    judged(page, None, answerable=None, matches=None)
    faked(page, "/api/model", lambda answer: answer.update(calibrated=False))
    page.reload()
    search(page, "a red ball")
    assert re.fullmatch(r"-?\d\.\d{3}", page.inner_text(".card .value >> nth=0"))
    assert "likely" not in status(page)
    page.click("text=The model")
    assert "no calibration" in page.inner_text("#model-page")


def test_probabilities_are_shown(opened: Any) -> None:
    page = opened()
    judged(page, 0.81, answerable=0.93, matches=True)
    search(page, "a red ball")
    assert page.inner_text(".card .value >> nth=0") == "81%"
    assert "93% likely" in status(page)
    assert "81% likely a match" in page.locator(".card").first.get_attribute("aria-label")


def test_nothing_matches(opened: Any) -> None:
    page = opened()
    judged(page, 0.01, answerable=0.04, matches=False)
    search(page, "an elephant on the moon")
    assert status(page) == "Nothing matches “an elephant on the moon”. The nearest photos are shown dimmed."
    assert float(page.evaluate("getComputedStyle(document.querySelector('.card')).opacity")) < 0.6


def test_classes_places_and_negatives_narrow_a_search(opened: Any, index: Index) -> None:
    page, (name, _) = opened("?q=a+ball"), index.classes[0]
    (answer,) = index.search([Query("a ball", filters=(f"has:{name}",))], 24)
    chip = page.locator("#classes .chip").first
    assert chip.get_attribute("aria-pressed") == "false"
    answered(page, chip.click)
    assert page.locator(".card").count() == len(answer.results)
    assert page.locator("#classes .chip").first.get_attribute("aria-pressed") == "true"
    response = answered(page, lambda: page.select_option(".pill select", "top"))
    assert f"filter={name}:top" in unquote_plus(response.url)
    response = answered(page, lambda: (page.fill("#without", "a dog"), page.press("#without", "Enter")))
    assert "without=a+dog" in response.url
    assert page.locator(".pill").all_inner_texts()[1].startswith("not a dog")
    answered(page, lambda: page.click("[aria-label='Remove: not a dog']"))
    answered(page, page.go_back)
    assert page.locator(".pill").count() == 2
    response = answered(page, lambda: (page.fill("#filter", "has:unicorn"), page.press("#filter", "Enter")))
    assert response.status == 400
    assert "unicorn" in status(page)
    assert page.locator("#status.fault").count() == 1


def test_a_photo_says_why_it_was_found(opened: Any) -> None:
    page = opened()

    def trusted(answer: dict[str, Any]) -> None:
        answer.update(shown_as="explanation")
        answer["places"] = [dict(place, effect=0.1, box=[0.25, 0.5, 0.75, 1.0]) for place in answer["places"]]
        # A segment is called by its own class, whatever else is in its box.
        answer["places"][0].update(
            kind="segment", name="green_vase", classes={"sky": 0.9, "green_vase": 0.1}, effect=0.2
        )

    faked(page, "/api/explain", trusted)
    search(page, "a red ball")
    page.locator(".card").first.click()
    page.wait_for_selector("#tokens button")
    assert page.locator("#tokens button").first.inner_text().split("\n")[0] == "green vase"
    assert page.is_visible("#heat")
    page.locator("#opacity").fill("30")
    assert page.evaluate("document.getElementById('heat').style.opacity") == "0.3"
    page.hover("#tokens button")
    mark, photo = page.locator("#mark").bounding_box(), page.locator("#whole").bounding_box()
    assert mark["x"] == pytest.approx(photo["x"] + 0.25 * photo["width"], abs=2)
    assert mark["height"] == pytest.approx(0.5 * photo["height"], abs=2)
    assert page.locator("#heat").bounding_box() == pytest.approx(photo, abs=1)


def test_an_explanation_that_failed_its_test_is_not_shown_as_one(opened: Any) -> None:
    page = opened()
    faked(page, "/api/explain", lambda answer: answer.update(shown_as="weights"))
    search(page, "a red ball")
    page.locator(".card").first.click()
    page.wait_for_selector("text=no explanation that can be trusted")
    assert not page.is_visible("#heat")
    assert not page.is_visible("#opacity-row")


def test_a_dropped_photo_is_the_query_and_weighs_against_words(opened: Any, index: Index) -> None:
    page, name = opened(), next(str(name) for name in index.column("id") if "single" in name)
    content = list(index.photo_path(name).read_bytes())
    response = answered(page, lambda: page.evaluate(DROP, ["photo.png", content]))
    assert response.request.method == "POST"
    assert name in page.locator(".card").first.get_attribute("aria-label")
    assert page.is_visible("#sent")
    response = answered(page, lambda: (page.fill("#q", "a red ball"), page.press("#q", "Enter")))
    assert "text_weight=0.5" in response.url
    response = answered(
        page,
        lambda: page.locator("#weight").fill("0.2"),
    )
    assert "text_weight=0.2" in response.url
    answered(page, lambda: page.click("#drop-sent"))
    assert not page.is_visible("#sent")
    response = answered(page, lambda: page.evaluate(DROP, ["text.png", [1, 2, 3]]))
    assert response.status == 400
    assert "no photo that can be read" in status(page)


def test_a_chosen_file_and_more_like_this(opened: Any, index: Index) -> None:
    page = opened()
    response = answered(page, lambda: page.set_input_files("#file", index.photo_path(str(index.column("id")[0]))))
    assert response.status == 200
    page.locator(".card").nth(2).click()
    title = page.inner_text("#viewer-title")
    answered(page, lambda: page.click("#like"))
    assert title.endswith(page.locator(".card .name").first.inner_text())


def test_a_model_that_reads_no_new_photos_says_so(opened: Any) -> None:
    page = opened()
    faked(
        page,
        "/api/model",
        lambda answer: answer.update(photo_refused="it needs a mask", explanation_refused="it needs a mask"),
    )
    page.reload()
    page.wait_for_selector("text=Only a photo of this index can be the query: it needs a mask")
    assert page.is_visible(".pick")
    search(page, "a red ball")
    page.locator(".card").first.click()
    page.wait_for_selector("text=No explanation: it needs a mask.")


def test_the_keyboard_alone(opened: Any) -> None:
    page = opened()
    page.keyboard.press("/")
    page.keyboard.type("a red ball")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    page.keyboard.press("/")
    page.keyboard.press("ArrowDown")
    label = "document.activeElement.getAttribute('aria-label').split(':')[0]"
    assert page.evaluate(label) == "Photo 1"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    columns = page.evaluate(
        "getComputedStyle(document.getElementById('results')).gridTemplateColumns.split(' ').length"
    )
    assert page.evaluate(label) == f"Photo {2 + columns}"
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    first = page.inner_text("#viewer-title")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#viewer-title") != first
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog:not([open])", state="attached")
    assert page.evaluate(label) == f"Photo {3 + columns}"


def test_the_model_has_a_page(opened: Any, index: Index) -> None:
    page = opened()
    page.click("text=The model")
    text = page.inner_text("#model-page")
    assert "rsum" in text
    assert index.classes[0][0] in text
    assert "calibrated probability" in text
    assert "/api/search?q=" in text
    assert not page.is_visible("#q")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, {"width": 1200, "height": 800}], ids=["phone", "desktop"])
def test_it_fits_and_can_be_read(opened: Any, viewport: dict[str, int], scheme: str) -> None:
    page = opened("?q=a+red+ball", viewport=viewport, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    page.locator(".card").first.click()
    page.wait_for_selector("#why-says")
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= viewport["width"]
    assert contrast(page, "#viewer-match") > 4.5
    page.click("#close")
    assert contrast(page, "#status") > 4.5


def contrast(page: Any, selector: str) -> float:
    """WCAG's contrast of a text with the page's or the dialog's ground."""
    colours = page.evaluate(
        "selector => { const text = document.querySelector(selector), ground = text.closest('dialog') || document.body;"
        "return [getComputedStyle(text).color, getComputedStyle(ground).backgroundColor]; }",
        selector,
    )
    one, other = sorted((luminance(colour) for colour in colours), reverse=True)
    return (one + 0.05) / (other + 0.05)


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_everything_that_can_be_used_has_a_name(opened: Any) -> None:
    page = opened("?q=a+red+ball")
    page.locator(".card").first.click()
    page.wait_for_selector("dialog[open]")
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, a, input:not([type=hidden]), select, dialog')].filter(each => {"
        "const label = each.getAttribute('aria-label') || each.textContent.trim() || each.labels?.length"
        " || each.getAttribute('aria-labelledby'); return !label; }).map(each => each.outerHTML)"
    )
    assert nameless == []


def test_a_server_that_is_gone_is_said(browser: Any, index: Index) -> None:
    page = browser.new_page()
    with serving(index) as port:
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("body[data-ready]")
    page.fill("#q", "a ball")
    page.press("#q", "Enter")
    page.wait_for_selector("text=The server does not answer. Is it still running?")
    page.close()


def test_what_a_file_is_called_stays_text(opened: Any) -> None:
    page = opened()
    name = "<img src=x onerror=document.body.dataset.hit=1>"
    faked(
        page, "/api/search", lambda answer: answer.update(results=[dict(each, file=name) for each in answer["results"]])
    )
    search(page, "<script>alert(1)</script>")
    page.locator(".card").first.click()
    assert page.inner_text("#viewer-title") == name
    assert page.evaluate("document.body.dataset.hit") is None
    assert json.dumps(page.inner_text("#status")).count("<script>") == 1
