"""The page in a real browser: what a reader can do with it, by mouse, keyboard and without scripts, and what it must never do."""

from __future__ import annotations

import math
from contextlib import contextmanager

import pandas as pd
import pytest

from support import browser
from support.comparison_specimen import ATTACKS, DEFENSES, comparison
from support.report_specimen import specimen
from tempering.report.formatting import beyond
from tempering.report.terminal import sentence

SMALL, LARGE = {"width": 360, "height": 740}, {"width": 1440, "height": 900}
HOSTILE = (
    '<img src="https://attacker.example/x" onerror="alert(1)">',
    "</script><script>alert(2)</script>",
    "</template></table><svg onload=alert(3)>{{7*7}}",
    '=HYPERLINK("https://attacker.example")',
)


@pytest.fixture(scope="module")
def chromium():
    if reason := browser.lacking():
        (pytest.fail if browser.insisted() else pytest.skip)(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=browser.executable(), args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def audit():
    return specimen()


@pytest.fixture(scope="module")
def audited(audit, chromium, tmp_path_factory):
    return audit.write(tmp_path_factory.mktemp("audit"), thresholds=True)


@pytest.fixture(scope="module")
def compared(chromium, tmp_path_factory):
    defenses = {name: DEFENSES[name] for name in ("refat", "tar", "undo")}
    attacks = {name: ATTACKS[name] for name in ("full_finetune", "relearning", "refusal_ablation", "retrieval")}
    return comparison(defenses, attacks, seeds=2).write(tmp_path_factory.mktemp("comparison"), thresholds=True)


@pytest.fixture(scope="module")
def hostile(chromium, tmp_path_factory):
    def wrong(table):
        return table.assign(error=table["error"].where(table["status"] != "failed", HOSTILE[1]))

    subject = specimen(models=(HOSTILE[0],), names=HOSTILE, units=wrong, seeds=2)
    subject.targets[0].update(safeguard=HOSTILE[0], digest=HOSTILE[1])
    subject.environment.update({HOSTILE[0]: HOSTILE[1]})
    return subject.write(tmp_path_factory.mktemp("hostile"), thresholds=True)


@contextmanager
def opened(chromium, path, *, size=LARGE, **options):
    """A page opened from the disk; when it is closed, it has asked nobody for anything and complained of nothing."""
    context = chromium.new_context(viewport=size, offline=True, accept_downloads=True, **options)
    page = context.new_page()
    mine, wrong = (path.as_uri(), "data:"), []
    page.on("request", lambda request: None if request.url.startswith(mine) else wrong.append(request.url))
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on("popup", lambda popup: wrong.append(popup.url))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert wrong == []


def open_all(page):
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")


def column(page, table, title):
    """The shown cells of a column with their numbers, from top to bottom."""
    return page.locator(table).first.evaluate(
        """(table, title) => {
          const place = [...table.tHead.rows[0].cells].findIndex((head) => head.textContent.trim() === title);
          const rows = [...table.tBodies].flatMap((body) => [...body.rows]).filter((row) => row.cells.length > 1);
          return rows.map((row) => [row.cells[place].textContent.trim(), row.cells[place].dataset.value ?? null]);
        }""",
        title,
    )


def numbers(cells):
    return [math.nan if value is None else float(value) for _, value in cells]


def head(page, table, title):
    return page.locator(table).first.get_by_role("columnheader", name=title, exact=True)


PRICES = 'table[data-view="prices"]'


def test_a_table_sorts_by_its_numbers_and_what_is_missing_stays_last(chromium, audited):
    with opened(chromium, audited) as page:
        before = column(page, PRICES, "Attack")
        button = page.locator(PRICES).get_by_role("button", name="FLOPs", exact=True)
        assert head(page, PRICES, "FLOPs").get_attribute("aria-sort") == "none"
        button.click()
        assert head(page, PRICES, "FLOPs").get_attribute("aria-sort") == "ascending"
        rising = numbers(column(page, PRICES, "FLOPs"))
        assert rising[:3] == sorted(rising[:3])
        assert math.isnan(rising[3])
        button.click()
        assert head(page, PRICES, "FLOPs").get_attribute("aria-sort") == "descending"
        assert numbers(column(page, PRICES, "FLOPs"))[:3] == rising[2::-1]
        assert column(page, PRICES, "FLOPs")[3] == ["–", None]
        page.locator(PRICES).get_by_role("button", name="Attack", exact=True).click()
        assert head(page, PRICES, "FLOPs").get_attribute("aria-sort") == "none"
        names = [name for name, _ in column(page, PRICES, "Attack")]
        assert sorted(name.lstrip("●■▲◆ ") for name in names) == [name.lstrip("●■▲◆ ") for name in names]
        for _ in range(2):
            page.locator(PRICES).get_by_role("button", name="Attack", exact=True).click()
        assert column(page, PRICES, "Attack") == before


def test_beyond_a_number_comes_after_it_and_ties_keep_their_order(chromium, audited):
    with opened(chromium, audited) as page:
        values = ["5", repr(beyond(5.0)), "5", "Infinity", "4"]
        page.locator("#runs").evaluate(
            """(heading, values) => {
              const rows = [...heading.closest("section").querySelector("table").tBodies[0].rows];
              rows.slice(values.length).forEach((row) => row.remove());
              rows.slice(0, values.length).forEach((row, place) => {
                row.cells[3].dataset.value = values[place];
                row.cells[9].textContent = `unit ${place}`;
              });
            }""",
            values,
        )
        open_all(page)
        table = "#runs ~ details table"
        button = page.locator(table).get_by_role("button", name="Examples", exact=True)
        button.click()
        assert [name for name, _ in column(page, table, "Unit")] == ["unit 4", "unit 0", "unit 2", "unit 1", "unit 3"]
        button.click()
        assert [name for name, _ in column(page, table, "Unit")] == ["unit 3", "unit 1", "unit 0", "unit 2", "unit 4"]


def test_every_data_table_can_be_sorted(chromium, audited, compared):
    # Sections have tables too: the envelope one; frontier one, payers two, envelope one, how sure two, agreement two.
    for path, tables in ((audited, 4 + 1), (compared, 8 + 8)):
        with opened(chromium, path) as page:
            open_all(page)
            assert page.locator("table.sortable").count() == tables
            assert page.locator("table:not(.sortable)").evaluate_all("(tables) => tables.map((table) => table.className)") == ["downloads"]
            for table in page.locator("table.sortable").all():
                buttons = table.locator("thead button")
                assert buttons.count() == table.locator("thead th").count()
                buttons.last.click()
                assert table.locator("thead th").last.get_attribute("aria-sort") == "ascending"


def test_the_control_stays_below_the_defences(chromium, compared):
    table = 'table[data-view="defenses-1"]'
    with opened(chromium, compared) as page:
        for _ in range(2):
            page.locator(table).get_by_role("button", name="Best attacker", exact=True).click()
            assert column(page, table, "Defence")[-1][0].startswith("undefended")
        falling = numbers(column(page, table, "Best attacker"))[:-1]
        assert falling == sorted(falling, reverse=True)


def test_a_currency_is_put_first_and_its_figures_are_shown(chromium, audited):
    with opened(chromium, audited, size=SMALL) as page:
        shown = page.locator("[data-panel]:visible").count()
        page.select_option("#currency", "steps")
        assert {cell.get_attribute("data-title") for cell in page.locator(f"{PRICES} td.chosen").all()} == {"Steps"}
        assert page.locator("[data-panel]:visible").evaluate_all("(panels) => panels.map((each) => each.dataset.panel)") == ["steps"] * 3
        row = page.locator(f"{PRICES} tbody tr").first
        tops = {cell.get_attribute("data-title"): cell.bounding_box()["y"] for cell in row.locator("td.n:visible").all()}
        assert min(tops, key=tops.get) == "Steps"
        page.select_option("#currency", "gpu_hours")
        assert page.locator(".drawn:visible").all_inner_texts() == [
            "Drawn in FLOPs, to which GPU time is proportional.",
            "Drawn in Dollars, to which GPU time is proportional.",
            "Drawn in FLOPs, to which GPU time is proportional.",
        ]
        page.select_option("#currency", "")
        assert page.locator("[data-panel]:visible").count() == shown == 7
        assert page.locator(".chosen").count() == 0


def test_another_threshold_changes_what_depends_on_it_and_says_so(chromium, audit, audited):
    others = audit.at_thresholds()
    with opened(chromium, audited) as page:
        own = page.locator("main").inner_text()
        assert page.locator(".elsewhere:visible").count() == 0
        page.locator(PRICES).get_by_role("button", name="Dollars", exact=True).click()
        page.select_option("#tau", "0.9")
        said = page.locator(".headline").inner_text().replace("\N{NO-BREAK SPACE}", " ")
        assert said == sentence(others[0.9]) != sentence(audit.assessment)
        assert page.locator(".banner").inner_text().startswith("You are looking at τ = 0.9. The study's own is 0.5.")
        assert page.locator(".elsewhere:visible").count() == 4 + 2  # the envelope and how sure it is, too
        assert "recovers at least 90" in page.locator("#prices + .lead").inner_text()
        prices = others[0.9].prices.set_index("attack")["usd_median"].dropna()
        shown = numbers(column(page, PRICES, "Dollars"))
        assert shown[: len(prices)] == sorted(prices)
        assert head(page, PRICES, "Dollars").get_attribute("aria-sort") == "ascending"
        page.get_by_role("button", name="Back to τ = 0.5").click()
        assert page.evaluate("document.activeElement.id") == "tau"
        for _ in range(2):
            page.locator(PRICES).get_by_role("button", name="Dollars", exact=True).click()
        assert page.locator("main").inner_text() == own


def test_a_comparison_follows_the_threshold_too(chromium, compared):
    with opened(chromium, compared) as page:
        views = page.locator("[data-view]").evaluate_all("(parts) => parts.map((part) => part.dataset.view)")
        assert len(views) == len(set(views))
        before = column(page, 'table[data-view="defenses-1"]', "Best attacker")
        page.select_option("#tau", "0.8")
        assert column(page, 'table[data-view="defenses-1"]', "Best attacker") != before
        open_all(page)
        assert page.locator('[data-view="knowledge"] button.sort').count() == 4
        page.select_option("#tau", "0.5")
        assert column(page, 'table[data-view="defenses-1"]', "Best attacker") == before


def test_tables_can_be_saved_and_read(chromium, audit, audited, tmp_path):
    with opened(chromium, audited) as page:
        for kind, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
            with page.expect_download() as waited:
                page.get_by_role("link", name=f"prices.{kind}").click()
            assert waited.value.suggested_filename == f"prices.{kind}"
            waited.value.save_as(tmp_path / f"prices.{kind}")
            pd.testing.assert_frame_equal(read(tmp_path / f"prices.{kind}"), audit.assessment.prices, check_dtype=kind == "parquet")


def test_by_keyboard_alone_everything_is_reached_and_seen(chromium, audited, compared):
    for path in (audited, compared):
        with opened(chromium, path, size=SMALL, reduced_motion="reduce") as page:
            open_all(page)
            wanted = page.evaluate(
                """() => {
                  const all = [...document.querySelectorAll("a[href], button, select, summary, [tabindex]")];
                  window.focusable = all.filter((each) => each.checkVisibility({ checkVisibilityCSS: true }));
                  return window.focusable.length;
                }"""
            )
            seen = []
            for _ in range(wanted):
                page.keyboard.press("Tab")
                seen.append(
                    page.evaluate(
                        """() => {
                          const at = document.activeElement;
                          const box = at.getBoundingClientRect();
                          const inside = box.right > 0 && box.left < innerWidth && box.bottom > 0 && box.top < innerHeight;
                          const bar = document.querySelector(".switches").getBoundingClientRect();
                          const covered = !at.closest(".switches, .skip") && bar.top <= 0 && box.bottom <= bar.bottom;
                          return [window.focusable.indexOf(at), inside && !covered && parseFloat(getComputedStyle(at).outlineWidth) >= 2];
                        }"""
                    )
                )
            assert [place for place, _ in seen] == list(range(wanted))
            assert [place for place, visible in seen if not visible] == []


def test_the_keyboard_sorts_and_switches(chromium, audited):
    with opened(chromium, audited) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        assert page.locator(".skip").bounding_box()["x"] >= 0
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == "#prices"
        page.locator("#tau").focus()
        page.keyboard.press("ArrowDown")
        assert page.locator(".banner").is_visible()
        page.locator(PRICES).get_by_role("button", name="Steps", exact=True).focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Space")
        assert head(page, PRICES, "Steps").get_attribute("aria-sort") == "descending"
        assert page.evaluate("document.activeElement.textContent") == "Steps"


def test_text_from_users_and_models_stays_text(chromium, hostile):
    with opened(chromium, hostile) as page:
        open_all(page)
        for tau in ("0.1", "0.9", "0.5"):
            page.select_option("#tau", tau)
            for button in page.locator("button.sort").all():
                button.click()
        text = page.locator("body").inner_text()
        for name in HOSTILE:
            assert name in text.replace("\N{NO-BREAK SPACE}", " ")
        assert page.locator("img, iframe, script[src], svg[onload], [onerror]").count() == 0
        with page.expect_download() as waited:
            page.get_by_role("link", name="prices.csv").click()
        saved = pd.read_csv(waited.value.path())
        assert set(saved["attack"]) == {*HOSTILE[:3], f"'{HOSTILE[3]}"}


def test_the_policy_would_stop_a_script_that_came_in_after_all(chromium, audited):
    context = chromium.new_context(offline=True)
    page = context.new_page()
    page.goto(audited.as_uri())
    page.evaluate(
        """() => {
          for (const enter of [
            () => { const made = document.createElement("script"); made.append("window.entered = 1"); document.body.append(made); },
            () => { document.body.innerHTML += '<img src=x onerror="window.entered = 2">'; },
            () => { document.body.setAttribute("onclick", "window.entered = 3"); document.body.click(); },
          ]) try { enter(); } catch { /* refused */ }
        }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.entered ?? null") is None
    context.close()


@pytest.mark.parametrize("scripts", [True, False])
def test_a_narrow_screen_never_scrolls_sideways(chromium, audited, compared, hostile, scripts):
    for path in (audited, compared, hostile):
        with opened(chromium, path, size=SMALL, java_script_enabled=scripts) as page:
            open_all(page)
            if scripts:
                page.select_option("#currency", "usd")
                page.select_option("#tau", "0.7")
                assert page.locator("details:not([open])").count() == 0
            assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_without_scripts_the_page_is_complete(chromium, audited, compared):
    for path in (audited, compared):
        with opened(chromium, path) as page:
            open_all(page)
            scripted = page.locator("header").inner_text() + page.locator("main").inner_text()
        with opened(chromium, path, java_script_enabled=False) as page:
            open_all(page)
            assert page.locator("header").inner_text() + page.locator("main").inner_text() == scripted
            assert page.locator("button:visible, select:visible").count() == 0
            assert page.locator("svg.drawing:visible").count() == page.locator("svg.drawing").count() - page.locator(".extra").count()
            with page.expect_download() as waited:
                page.get_by_role("link", name="breaks.csv").click()
            assert len(pd.read_csv(waited.value.path())) > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(chromium, audited, compared, scheme):
    for path in (audited, compared):
        for size in (LARGE, SMALL):
            with opened(chromium, path, size=size, color_scheme=scheme) as page:
                open_all(page)
                assert page.evaluate(browser.CONTRAST) == []
                page.select_option("#currency", "usd")
                page.select_option("#tau", "0.7")
                assert page.evaluate(browser.CONTRAST) == []


def test_paper_keeps_everything_whatever_was_chosen(chromium, audited):
    with opened(chromium, audited) as page:
        page.select_option("#currency", "steps")
        page.emulate_media(media="print")
        assert page.locator("[data-panel]:not(.extra):visible").count() == 7
        assert page.locator(".switches, nav, .skip").evaluate_all("(parts) => parts.some((part) => part.checkVisibility())") is False
        assert page.locator("#runs ~ details td").first.is_visible()
