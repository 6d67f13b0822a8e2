"""The page of live sessions in a real browser, headless Chromium, with a microphone that beeps."""

import shutil
import time

import pytest
from fastapi import FastAPI
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from asymtalker.config import LiveConfig
from asymtalker.serve.live import live_router
from asymtalker.serve.stage import Stage
from small_server import running

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM or not DRIVER, reason="needs Chromium and its driver (apt: chromium-driver)"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def stage(moving_pipeline):
    stage = Stage(moving_pipeline, LiveConfig(frames=9, new=4, ahead=2, steps=1))
    stage.rehearse = lambda _: 4.0  # a busy machine would refuse
    yield stage
    stage.close()


@pytest.fixture
def browser(stage, picture, tmp_path):
    """The page, with a portrait and consent given."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio", "--window-size=390,844"):
        options.add_argument(argument)
    options.add_argument("--use-fake-device-for-media-stream")
    options.add_argument("--use-fake-ui-for-media-stream")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    Image.fromarray(picture).save(tmp_path / "face.png")
    app = FastAPI()
    app.include_router(live_router(lambda: stage))
    with running(app) as address:
        driver.get(f"{address}/live")
        driver.find_element(By.ID, "portrait").send_keys(str(tmp_path / "face.png"))
        driver.find_element(By.ID, "consent").send_keys(Keys.SPACE)
        yield driver
        driver.quit()


def until(browser, condition, what: str) -> None:
    WebDriverWait(browser, 60, 0.1).until(lambda _: condition(), what)


def said(browser) -> str:
    return browser.find_element(By.ID, "state").text


def held(browser) -> str:
    """What the keyboard works on."""
    return browser.switch_to.active_element.get_attribute("id")


def test_it_is_spoken_to_interrupted_and_stopped_by_keyboard(browser, stage):
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    browser.find_element(By.ID, "start").send_keys(Keys.ENTER)
    until(browser, lambda: said(browser).startswith("Speak"), "a session is opened")
    moving = "const video = document.getElementById('video'); return video.videoWidth > 0 && video.currentTime > 1"
    until(browser, lambda: browser.execute_script(moving), "it is seen")
    until(browser, lambda: " ms " in browser.find_element(By.ID, "latency").text, "latency is shown")
    assert held(browser) == "stop", "the button that was pressed can't be any more"
    browser.find_element(By.ID, "interrupt").send_keys(Keys.ENTER)
    browser.find_element(By.ID, "stop").send_keys(Keys.ENTER)
    assert (said(browser), held(browser)) == ("Stopped.", "start")
    until(browser, lambda: not stage.sessions, "the server's session ends too")


def test_stopped_while_it_is_asked_for_it_does_not_begin(browser, stage):
    browser.execute_script("document.getElementById('start').click(); document.getElementById('stop').click()")
    assert said(browser) == "Stopped."
    browser.execute_async_script("setTimeout(arguments[0], 1500)")
    assert said(browser) == "Stopped."
    assert not stage.sessions
    assert browser.find_element(By.ID, "start").is_enabled()


def test_stopped_while_it_is_opened_it_is_closed_again(browser, stage, monkeypatch):
    opened = []

    def slowly(*arguments, **keywords):
        time.sleep(1.5)
        opened.append(Stage.open(stage, *arguments, **keywords))
        return opened[0]

    monkeypatch.setattr(stage, "open", slowly)
    browser.find_element(By.ID, "start").click()
    until(browser, lambda: said(browser).startswith("Trying"), "it is asked for")
    time.sleep(0.5)
    browser.find_element(By.ID, "stop").click()
    until(browser, lambda: opened, "it is opened")
    WebDriverWait(browser, 15).until(lambda _: not stage.sessions, "nobody waits until the caller gives up")


def test_what_is_wrong_is_said_in_words(browser, stage, tmp_path):
    def start() -> str:
        browser.find_element(By.ID, "start").click()
        until(browser, lambda: browser.find_element(By.ID, "state").get_attribute("class") == "wrong", "it is said")
        return said(browser)

    Image.new("RGB", (200, 200)).save(tmp_path / "wall.png")
    portrait = browser.find_element(By.ID, "portrait")
    portrait.send_keys(str(tmp_path / "wall.png"))
    assert "No human face" in start()
    for error, words in (("NotAllowedError", "not allowed"), ("NotFoundError", "no microphone")):
        refuse = f"navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('', '{error}'); }}"
        browser.execute_script(refuse)
        assert words in start()
    browser.execute_script("Object.defineProperty(navigator, 'mediaDevices', {value: undefined})")
    assert "https" in start()
    assert not stage.sessions


def test_the_page_uses_the_servers_that_it_is_told_of(browser):
    browser.execute_script(
        """const real = RTCPeerConnection, fetched = fetch;
        const told = JSON.stringify({ iceServers: [{ urls: ["stun:127.0.0.1:9"] }] });
        window.fetch = async (route, ...rest) =>
          route === "/v1/live/ice" ? new Response(told) : fetched(route, ...rest);
        window.RTCPeerConnection = function (how) { window.told = how; return new real({}); };"""
    )
    browser.find_element(By.ID, "start").click()
    until(browser, lambda: browser.execute_script("return window.told"), "a connection is made")
    assert browser.execute_script("return window.told") == {"iceServers": [{"urls": ["stun:127.0.0.1:9"]}]}
    browser.find_element(By.ID, "stop").click()
