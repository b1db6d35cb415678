"""
The page in a browser: with a mouse, with keys alone, on a phone. Screenshots for `docs/` come from the demo's model:

SPACE_MODEL=demo/emollm python -m pytest tests/space -k screenshots
"""

import io
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from test_uploads import picture_bytes


ROOT = Path(__file__).parents[2]
# Nothing but the page is fetched, no matter how old the browser's own lists are.
OPTIONS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser(space_python):
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no Chromium here: install one, e.g. with `apt-get install chromium`, to test the page in it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=OPTIONS.split())
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server):
    """Opens the page, and has seen at the end that the browser asked nobody else for anything."""
    contexts, asked = [], []

    def open_page(viewport=DESKTOP, url=server.url, **options):
        contexts.append(browser.new_context(viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.get_by_role("group", name="EmoPrompt, which guides the model").wait_for()  # the page's script has run
        return page

    yield open_page
    for context in contexts:
        context.close()
    here = ("http://127.0.0.1:", "data:", "blob:")
    assert asked and not [address for address in asked if not address.startswith(here)]


def ask(page) -> str:
    """The label of the answer."""
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_role("status").filter(has_text="Answered in").wait_for()
    page.get_by_role("img", name="What each perspective looked at").wait_for()
    return page.get_by_role("heading", level=2).inner_text()


def test_a_picture_is_uploaded_and_asked_about(open_page, server, tmp_path):
    page = open_page()
    (tmp_path / "picture.png").write_bytes(picture_bytes((64, 64)))
    page.set_input_files("input[type=file]", tmp_path / "picture.png")
    page.get_by_text("1 picture, ready to be asked about.").wait_for()
    assert page.get_by_role("img", name="Picture 1 of 1").evaluate("image => image.naturalWidth") == 64
    labels = ["happiness", "sadness", "anger", "fear"]
    assert ask(page) in labels
    shown = page.get_by_test_id("label-output-value").locator("xpath=../..").inner_text()
    assert all(label in shown for label in labels) and shown.count("%") == 4
    assert page.get_by_role("img", name="What each perspective").evaluate("image => image.naturalWidth") > 1000
    page.get_by_role("radio", name="Intent").check()  # another question, to which this is no answer
    page.get_by_role("heading", level=2).wait_for(state="detached")
    assert page.get_by_label("Question").input_value() == "What does the person want to do?"
    assert ask(page) in ("eat", "sleep", "play", "travel")
    assert not server.files()


def test_an_example_is_asked_about(open_page):
    page = open_page()
    page.get_by_role("button", name="Humor").click()
    page.get_by_text("From EmoBench-Drawn, where the answer is: yes.").wait_for()
    assert page.get_by_role("radio", name="Humor").is_checked()
    assert page.get_by_label("Words in the clip").input_value() == "Ladies and gentlemen, the great show!"
    assert page.get_by_role("img", name="of 3").count() == 3
    assert ask(page) in ("no", "yes")


def test_problems_are_told(open_page, tmp_path):
    page = open_page()
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_role("alert").filter(has_text="There is no picture yet").wait_for()
    (tmp_path / "broken.png").write_bytes(b"nothing")
    page.set_input_files("input[type=file]", tmp_path / "broken.png")
    page.get_by_role("alert").filter(has_text="broken.png can't be used: picture broken or truncated.").wait_for()
    page.get_by_text("There is no picture yet").wait_for(state="detached")
    (tmp_path / "text.txt").write_bytes(b"text")
    page.set_input_files("input[type=file]", tmp_path / "text.txt")
    page.get_by_text("Invalid file type").wait_for()
    (tmp_path / "large.png").write_bytes(bytes(33 * 2**20))
    page.set_input_files("input[type=file]", tmp_path / "large.png")
    page.get_by_text("exceed the maximum allowed size").wait_for()


def test_keys_are_enough(open_page, tmp_path):
    page = open_page()
    (tmp_path / "picture.png").write_bytes(picture_bytes((64, 64)))
    page.on("filechooser", lambda chooser: chooser.set_files(tmp_path / "picture.png"))
    focused = "() => { const e = document.activeElement; return e.ariaLabel || e.value || e.textContent; }"

    def tab_to(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate(focused).strip().startswith(name):
                return
        pytest.fail(f"no Tab leads to {name}")

    tab_to("Click to upload")
    page.keyboard.press("Enter")
    page.get_by_text("ready to be asked about").wait_for()
    tab_to("Sarcasm")
    page.keyboard.press("Enter")
    page.get_by_text("From EmoBench-Drawn").wait_for()
    tab_to("humor_detection")
    page.keyboard.press("Space")
    page.get_by_role("group", name="Task").get_by_role("radio", name="Humor", checked=True).wait_for()
    tab_to("Ask")
    page.keyboard.press("Enter")
    page.get_by_role("status").filter(has_text="Answered in").wait_for()


def test_a_phone_is_wide_enough(open_page):
    page = open_page(PHONE, is_mobile=True, has_touch=True)
    page.get_by_role("button", name="Emotion").tap()
    page.get_by_text("From EmoBench-Drawn").wait_for()
    ask(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") == PHONE["width"]
    figure = page.get_by_role("region", name="Figure")
    assert figure.evaluate("figure => figure.scrollWidth > figure.clientWidth")  # it alone scrolls sideways
    for control in page.locator("button, textarea, label:has(input[type=radio])").all():
        if control.is_visible():
            assert min(control.bounding_box()["height"], control.bounding_box()["width"]) >= 24  # as WCAG 2.2 asks


@pytest.fixture
def shown_server(serve, server):
    if "SPACE_MODEL" not in os.environ:
        yield server, None
        return
    with serve(["-m", "space.app", "--model", os.environ["SPACE_MODEL"]]) as trained:
        yield trained, ROOT / "docs"


def test_screenshots(open_page, shown_server, tmp_path):
    shown, folder = shown_server
    folder = folder or tmp_path
    for name, viewport in (("space", DESKTOP), ("space_phone", PHONE)):
        page = open_page(viewport, shown.url)
        page.get_by_role("button", name="Emotion").click()
        page.get_by_text("From EmoBench-Drawn").wait_for()
        ask(page)
        page.wait_for_timeout(1000)  # bars grow
        screenshot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        assert screenshot.width == viewport["width"] and len(screenshot.getcolors(2**24)) > 1000
        screenshot.quantize(256).save(folder / f"{name}.png", optimize=True)
