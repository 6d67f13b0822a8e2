"""The page, in a real browser: headless Chromium by its driver."""

import base64
import os
import re
import shutil
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from small_server import DEMO, SmallMaker, served, speech

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM or not DRIVER, reason="needs Chromium and its driver (apt: chromium-driver)"),
    pytest.mark.slow,
]
PATIENCE = 90  # seconds, on a busy machine
SCREENSHOTS = os.environ.get("ASYMTALKER_SCREENSHOTS")
"""Folder for pictures of the page, to be looked at."""


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio", "--window-size=1200,1000"):
        options.add_argument(argument)
    options.add_argument("--use-fake-device-for-media-stream")
    options.add_argument("--use-fake-ui-for-media-stream")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A server with the page; its videos take 0.04 s a frame."""
    make = SmallMaker(pace=0.04)
    with served(tmp_path_factory.mktemp("page"), make, page=True) as (client, service):
        yield str(client.base_url), service, make


def until(browser, condition, what: str):
    gone = [StaleElementReferenceException]  # looked up just before a page gave way to the next
    return WebDriverWait(browser, PATIENCE, 0.1, ignored_exceptions=gone).until(lambda _: condition(), what)


def find(browser, css: str):
    return browser.find_element(By.CSS_SELECTOR, css)


def text_of(browser, css: str) -> str:
    return find(browser, css).text


def opened(browser, address: str) -> None:
    browser.get(address)
    until(browser, lambda: browser.find_elements(By.ID, "at-history"), "the page appears")
    until(browser, lambda: browser.execute_script("return !!window.asymtalker"), "its script runs")


def upload(browser, part: str, path: Path) -> None:
    find(browser, f"#{part} input[type=file]").send_keys(str(path))


def press(browser, css: str) -> None:
    until(browser, lambda: find(browser, css).is_enabled(), f"{css} can be pressed")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", find(browser, css))
    find(browser, css).click()


def clip(browser, script: str):
    return browser.execute_script(f"const video = document.getElementById('at-video'); return {script}")


def test_upload_tick_generate_watch_download_reload_and_delete(browser, page, tmp_path):
    address, service, make = page
    sound = tmp_path / "voice.wav"
    sound.write_bytes(speech(5.0))
    opened(browser, address)
    upload(browser, "at-portrait", DEMO / "portrait.png")
    until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#at-shown img"), "the crop is shown")
    upload(browser, "at-sound", sound)
    until(browser, lambda: "5.0 seconds" in text_of(browser, "#at-sound-said"), "the sound was heard")

    press(browser, "#at-generate")
    until(browser, lambda: "Tick the box" in text_of(browser, "#at-problem"), "consent is asked for")
    assert browser.switch_to.active_element.get_attribute("id") == "at-problem", "readers are led to what is wrong"
    assert not make.made

    press(browser, "#at-consent input")
    press(browser, "#at-generate")
    until(browser, lambda: clip(browser, "video.currentTime > 0.2 && !video.paused"), "it plays")
    id = make.made[-1]
    assert service.jobs.get(id).state == "running", "it plays while it is made"
    assert re.search(r"\d+ of 125 frames", text_of(browser, "#at-doing"))
    assert browser.execute_script("return window.asymtalker.firstFrame") > 0
    until(browser, lambda: find(browser, "#at-download").is_displayed(), "it can be downloaded")
    assert find(browser, "#at-download").get_attribute("href").endswith(f"/v1/jobs/{id}/video")
    until(browser, lambda: clip(browser, "video.ended"), "it plays to its end")
    assert clip(browser, "video.duration") == pytest.approx(5.0, abs=0.2)
    assert clip(browser, "video.videoWidth") == 64
    fetched = browser.execute_async_script(
        "const done = arguments[0]; fetch(document.getElementById('at-download').href).then((r) => r.arrayBuffer())"
        ".then((b) => done(b.byteLength))"
    )
    assert fetched == (service.jobs.files(id) / "video.mp4").stat().st_size

    opened(browser, address)
    until(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, "#at-history li")) == 1, "the history is kept")
    assert "5.0 s" in text_of(browser, "#at-history li")
    press(browser, "#at-history button[aria-label^=Play]")
    until(browser, lambda: clip(browser, "video.videoWidth === 64 && video.currentTime > 0"), "it plays again")
    press(browser, "#at-history button[aria-label^=Delete]")
    until(browser, lambda: service.jobs.find(id) is None, "the server has forgotten it")
    until(browser, lambda: not browser.find_elements(By.CSS_SELECTOR, "#at-history li"), "and so has the page")


def test_what_cannot_be_used_is_said_beside_it(browser, page, tmp_path):
    address, _, make = page
    before = len(make.made)
    wall = tmp_path / "wall.svg.png"
    wall.write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    noise = tmp_path / "noise.wav"
    noise.write_bytes(b"RIFF" + bytes(200))
    opened(browser, address)
    press(browser, "#at-generate")
    until(browser, lambda: "Give a portrait that" in text_of(browser, "#at-problem"), "a portrait is asked for")
    upload(browser, "at-portrait", wall)
    until(browser, lambda: "something else" in text_of(browser, "#at-portrait-said"), "the picture is refused")
    upload(browser, "at-sound", noise)
    until(browser, lambda: "This is no sound" in text_of(browser, "#at-sound-said"), "the sound is refused")
    assert len(make.made) == before


def test_the_demo_works_at_once_and_a_reload_goes_on_with_it(browser, page):
    address, service, make = page
    before = len(make.made)
    opened(browser, address)
    press(browser, "#at-demo")
    until(browser, lambda: "12.8 seconds" in text_of(browser, "#at-sound-said"), "the demo's voice is there")
    until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#at-shown img"), "and its portrait")
    find(browser, "#at-consent input").send_keys(Keys.SPACE)  # as by keyboard alone
    find(browser, "#at-generate").send_keys(Keys.ENTER)
    until(browser, lambda: len(make.made) > before, "it is being made")
    opened(browser, address)
    until(browser, lambda: clip(browser, "video.currentTime > 0"), "it plays after a reload")
    assert service.jobs.get(make.made[-1]).state == "running"
    press(browser, "#at-stop")
    until(browser, lambda: service.jobs.get(make.made[-1]).state == "cancelled", "it is stopped")


def test_everything_has_a_name_and_nothing_comes_from_elsewhere(browser, page):
    address, _, _ = page
    browser.get_log("browser")  # of the tests before
    opened(browser, address)
    nameless = browser.execute_script(
        """return [...document.querySelectorAll('button, input, textarea, select, video, progress')]
        .filter((e) => e.offsetParent && !e.ariaLabel && !e.labels?.length && !e.textContent.trim() && !e.title
          && !e.getAttribute('aria-labelledby')).map((e) => e.outerHTML.slice(0, 200))"""
    )
    assert not nameless
    names = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert names
    assert not [name for name in names if not name.startswith((address, "data:", "blob:"))]
    wrong = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    known = ("status of 404", "INCOMPLETE_CHUNKED_ENCODING")  # the latter of what an earlier test has stopped
    assert not [entry["message"] for entry in wrong if not any(part in entry["message"] for part in known)]


@pytest.mark.parametrize("size", [(390, 844), (1280, 900)], ids=["phone", "desktop"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone_and_a_desktop(browser, page, size, theme, tmp_path):
    address, _, _ = page
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    try:
        opened(browser, address)
        press(browser, "#at-demo")
        until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#at-shown img"), "the crop is shown")
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= size[0] + 1, "nothing lies beyond the screen"
        colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in re.findall(r"\d+", colour)[:3]) / 3
        assert (brightness < 100) == (theme == "dark")
        if SCREENSHOTS:
            shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
            Path(SCREENSHOTS, f"{theme}-{size[0]}.png").write_bytes(base64.b64decode(shot["data"]))
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_token_is_asked_for_once(browser, tmp_path):
    token = "a-token-that-nobody-guesses"
    with served(tmp_path, SmallMaker(), token=token, page=True) as (client, _):
        browser.get(str(client.base_url))
        find(browser, "input").send_keys("a wrong token" + Keys.ENTER)
        until(browser, lambda: "token" in text_of(browser, "body"), "it is asked for again")
        find(browser, "input").send_keys(token + Keys.ENTER)
        until(browser, lambda: browser.find_elements(By.ID, "at-history"), "the page appears")
        opened(browser, str(client.base_url))
