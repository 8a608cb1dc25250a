"""The page of a half-finished study, its numbers against plain loops, and what W&B is asked to show."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from statistics import mean, stdev

import pytest

from threeshnet.errors import DataError
from threeshnet.reports.dashboard import write_dashboard
from threeshnet.reports.study_runs import StudyRun, bands, by_factor, by_variant, read_study, scores
from threeshnet.reports.wandb_dashboard import send

from . import wandb_service
from .study_fixture import COMPLAINT, EPOCHS, NOW, STATES, make_study, rsum

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
QUIET += ("--disable-component-update", "--disable-sync", "--hide-scrollbars")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("runs") / "activation")


@pytest.fixture(scope="module")
def runs(study: Path) -> list[StudyRun]:
    return read_study(study, now=NOW)


@pytest.fixture(scope="module")
def page(study: Path) -> str:
    return write_dashboard(study, study="activation", now=NOW).read_text(encoding="utf-8")


def test_runs_are_in_the_state_that_they_are_in(runs: list[StudyRun]) -> None:
    found = {(run.factors["activation"], run.seed): run.state for run in runs}
    assert found == {**STATES, ("softmax", 3): "waiting"}
    (failed,) = [run for run in runs if run.state == "failed"]
    assert failed.last_lines[-1] == COMPLAINT


def test_bands_reach_from_the_least_to_the_greatest_seed(runs: list[StudyRun]) -> None:
    sigmoid, softmax = bands(by_variant(runs))
    reached = {0: 8, 1: 2, 2: 3}  # epochs of the seeds of softmax
    for epoch in range(EPOCHS):
        values = [round(rsum("softmax", seed, epoch), 3) for seed, count in reached.items() if epoch < count]
        assert softmax.low[epoch] == min(values)
        assert softmax.high[epoch] == max(values)
        assert softmax.middle[epoch] == pytest.approx(mean(values))
    assert (sigmoid.epochs, sigmoid.runs) == (list(range(1, EPOCHS + 1)), 3)
    losses, _ = bands(by_variant(runs), of="losses")
    assert losses.middle[0] == pytest.approx(mean(40 + seed for seed in (0, 1, 2)))  # of two rows an epoch


def test_scores_are_of_finished_runs_alone(runs: list[StudyRun]) -> None:
    sigmoid, softmax = scores(by_variant(runs))
    values = [rsum("sigmoid", seed, EPOCHS - 1) for seed in (0, 1)]
    assert (sigmoid.finished, sigmoid.runs, sigmoid.rsum) == (2, 3, pytest.approx(mean(values)))
    assert sigmoid.spread == pytest.approx(stdev(values))
    assert (softmax.finished, softmax.runs, softmax.spread) == (1, 4, None)
    assert (sigmoid.best, softmax.best) == (True, False)
    assert sigmoid.recalls == pytest.approx((11.5, 15.5, 20.5) * 2)
    assert {name: [row.name for row in rows] for name, rows in by_factor(runs).items()} == {
        "activation": ["sigmoid", "softmax"]
    }


def test_the_page_is_one_file_and_nothing_in_it_is_run(page: str, runs: list[StudyRun]) -> None:
    assert all(run.name in page for run in runs)
    assert not re.search(r"(?:src|href|srcset|url)\s*[=(]\s*[\"']?(?![\"'#]|data:)", page)
    assert "<script" not in page
    assert "&lt;b&gt;[3, 4]&lt;/b&gt;" in page
    assert "a &lt;red&gt; ball" in page
    assert "prefers-color-scheme: dark" in page
    assert page.count("<img") == 2 + 4 + 2  # curves, pictures of two variants, the inside of the best run


def test_the_same_runs_give_the_same_page(study: Path, page: str, tmp_path: Path) -> None:
    again = write_dashboard(study, study="activation", out=tmp_path / "deep" / "page.html", now=NOW)
    assert again.read_text(encoding="utf-8") == page


def test_torn_files_count_as_not_there_yet(tmp_path: Path) -> None:
    run = tmp_path / "study" / "one"
    (run / "log").mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 0\n")
    (run / "progress.json").write_text('{"state": "runn')
    (run / "metrics.json").write_text("[]")
    (run / "highlights").mkdir()
    (run / "highlights" / "test-00000.png").write_bytes(b"\x89PNG no more")
    (run / "log" / "metrics.csv").write_text("epoch,step,train/loss,dev/rsum\n0,9,1.5,\n1,19,0.")
    (found,) = read_study(tmp_path / "study")
    assert (found.state, found.losses, found.curve) == ("waiting", {1: 1.5, 2: 0.0}, {})
    assert write_dashboard(tmp_path / "study", study="torn").is_file()


def test_the_command_and_its_message(command, study: Path, tmp_path: Path) -> None:
    ended = command("dashboard", "study=activation", f"out={study}", f"page={tmp_path / 'page.html'}")
    assert ended.code == 0, ended.err
    assert (tmp_path / "page.html").is_file()
    ended = command("dashboard", "study=activation", f"out={tmp_path / 'none'}")
    assert ended.code == 1
    assert "make sweep STUDY=" in ended.err
    with pytest.raises(DataError, match="no run directory"):
        read_study(tmp_path)


# ---- the service, or rather its stand-in


def test_the_service_is_asked_for_a_workspace_and_a_report_once(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with wandb_service.running() as service:
        monkeypatch.setenv("WANDB_BASE_URL", service.address)
        monkeypatch.setenv("WANDB_API_KEY", wandb_service.KEY)
        first = send(study, study="activation", project="threeshnet", entity="me")
        again = send(study, study="activation", project="threeshnet", entity="me")
    assert first == again
    assert all(address.startswith(f"{service.address}/me/threeshnet") for address in first.values())
    (space,), (report,) = service.specs("project-view"), service.specs("runs")  # written over, not doubled
    for spec in (space, report):
        told = json.dumps(spec)
        assert '"value": "activation"' in told  # the group of the runs
        assert {"dev/rsum", "train/loss", "summary_metrics.test/rsum", "held_out/highlights"} <= words(told)
        curves = [panel["config"] for panel in panels(spec) if panel["viewType"] == "Run History Line Plot"]
        assert [(curve["xAxis"], curve["groupBy"], curve["groupArea"]) for curve in curves] == [
            ("epoch", "variant.value", "minmax"),
            ("trainer/global_step", "variant.value", "minmax"),
        ]
    tables = [block["content"] for block in report["blocks"] if block["type"] == "markdown-block"]
    assert "| activation=softmax | 1 of 4 | 219" in tables[0]
    assert len(tables) == 2


def words(text: str) -> set[str]:
    return set(re.findall(r'"([^"]*)"', text))


def panels(node: object) -> list[dict]:
    """Every panel of a specification, wherever it lies."""
    if isinstance(node, list):
        return [panel for item in node for panel in panels(item)]
    if not isinstance(node, dict):
        return []
    return [node] if "viewType" in node else [panel for item in node.values() for panel in panels(item)]


# ---- a browser


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [500, 1280])  # the narrowest window that it opens, a desk
def test_a_browser_shows_it_without_scrolling_sideways(page: str, tmp_path: Path, width: int) -> None:
    measure = "<script>document.title = `${document.documentElement.scrollWidth} of ${innerWidth}`</script></body>"
    (tmp_path / "page.html").write_text(page.replace("</body>", measure), encoding="utf-8")
    browser = [str(CHROMIUM), *QUIET, f"--user-data-dir={tmp_path / 'user'}", f"--window-size={width},900"]
    asked = [*browser, "--dump-dom", (tmp_path / "page.html").as_uri()]
    shown = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=True)
    measured = re.search(r"<title>(\d+) of (\d+)</title>", shown.stdout)
    assert measured, shown.stderr
    wide, room = map(int, measured.groups())
    assert wide <= room
