"""A server under load: python benchmarks/serve.py [--url URL] [--seconds 6] [--users 1,4,8] [--page 3]
[--soak MINUTES] [--precision auto] [--out benchmarks/results/NAME.json]

Without ``--url`` it starts one here, with the bundled model. Measured are the time from a request to the first
frame that can be shown (API: the first fragment; ``--page``: from the click to the first frame on headless
Chromium's screen), the frames a second that all users together get, and, over a soak,
the memory that the server holds.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import wave
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np

from asymtalker.bench.machine import describe_machine, load_average
from asymtalker.bench.run import report_header
from asymtalker.config import Precision
from asymtalker.media.atomic import write_atomic
from asymtalker.media.sound import read_audio
from asymtalker.timeline import FPS, SAMPLE_RATE

DEMO = Path(__file__).parents[1] / "src" / "asymtalker" / "assets" / "demo"
SAMPLED = 5.0  # seconds between two looks at the server's memory


def start_server(stack: ExitStack, page: bool, precision: str) -> tuple[str, int]:
    """A server of our own: its address and process."""
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    command = [sys.executable, "-c", "from asymtalker.commands.cli import main; main()", "serve", "--port", "0"]
    command += ["--precision", precision, "--data", folder, "--limit.uploads-a-minute", "10000"] + (
        [] if page else ["--no-page"]
    )
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    assert process.stdout is not None
    return process.stdout.readline().strip(), process.pid


def speech(seconds: float) -> bytes:
    """So much of the demo's speech, repeated if need be, as WAV."""
    samples = np.resize(read_audio(DEMO / "speech.wav"), round(seconds * SAMPLE_RATE))
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        with wave.open(file.name, "wb") as sound:
            sound.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
            sound.writeframes((samples * 32767).astype("<i2").tobytes())
        return Path(file.name).read_bytes()


def one_video(address: str, sound: bytes, user: str, size: int) -> dict[str, float]:
    """Seconds until the answer, the first frame and the last one of a streamed video."""
    files = {"portrait": (DEMO / "portrait.png").read_bytes(), "sound": sound}
    begin, held, first, answered = time.perf_counter(), b"", None, 0.0
    data = {"consent": "true", "size": str(size)}
    with httpx.stream(
        "POST", f"{address}/v1/stream", data=data, files=files, headers={"X-Client": user}, timeout=None
    ) as answer:
        answer.read() if answer.is_error else None
        answer.raise_for_status()
        answered = time.perf_counter() - begin
        for block in answer.iter_bytes():
            if first is None:
                held += block
                mark = held.find(b"moof")
                if mark >= 0 and b"mdat" in held[mark:]:
                    first = time.perf_counter() - begin
        httpx.delete(address + answer.headers["location"])
    return {"answer": answered, "first_frame": first or float("nan"), "whole": time.perf_counter() - begin}


def under_load(address: str, sound: bytes, users: int, size: int) -> dict[str, Any]:
    """Users who all ask at once, each for one video."""
    found: list[dict[str, float]] = []

    def ask(user: int) -> None:
        found.append(one_video(address, sound, f"user{user}", size))

    begin = time.perf_counter()
    threads = [threading.Thread(target=ask, args=(user,)) for user in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - begin
    frames = users * round(FPS * (len(sound) - 44) / 2 / SAMPLE_RATE)
    firsts = sorted(one["first_frame"] for one in found)
    return {
        "users": users,
        "served": len(found),
        "frames_a_second": round(frames / spent, 2),
        "seconds": round(spent, 2),
        "first_frame_seconds": {"first": round(firsts[0], 2), "last": round(firsts[-1], 2)},
    }


def page_first_frames(address: str, runs: int) -> list[float]:
    """Seconds from the click on Generate to the first frame on the screen, in headless Chromium."""
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        wait = WebDriverWait(driver, 300, 0.05)
        driver.get(address)
        wait.until(lambda one: one.execute_script("return !!window.asymtalker"))
        wait.until(lambda one: one.find_elements(By.CSS_SELECTOR, "#at-demo"))
        driver.find_element(By.CSS_SELECTOR, "#at-demo").click()
        wait.until(lambda one: "seconds" in one.find_element(By.CSS_SELECTOR, "#at-sound-said").text)
        driver.find_element(By.CSS_SELECTOR, "#at-consent input").click()
        found = []
        for _ in range(runs):
            driver.execute_script("window.asymtalker.firstFrame = null")
            driver.find_element(By.CSS_SELECTOR, "#at-generate").click()
            found.append(wait.until(lambda one: one.execute_script("return window.asymtalker.firstFrame")))
            driver.find_element(By.CSS_SELECTOR, "#at-stop").click()
            time.sleep(2)
        return found
    finally:
        driver.quit()


def held_mib(pid: int) -> float:
    """Memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def soak(address: str, pid: int, sound: bytes, minutes: float, size: int) -> dict[str, Any]:
    """Videos one after another for so long, and what the server holds meanwhile."""
    samples, made, end = [(0.0, held_mib(pid))], 0, time.monotonic() + 60 * minutes
    begin = time.monotonic()
    while time.monotonic() < end:
        one_video(address, sound, "soak", size)
        made += 1
        if time.monotonic() - begin - samples[-1][0] > SAMPLED:
            samples.append((round(time.monotonic() - begin, 1), held_mib(pid)))
    half = [mib for second, mib in samples if second >= 30 * minutes] or [samples[-1][1]]
    early = [mib for second, mib in samples if 6 * minutes <= second < 30 * minutes] or [samples[0][1]]
    growth = statistics.median(half) / statistics.median(early) - 1
    return {
        "minutes": minutes,
        "videos": made,
        "mib": [[second, round(mib, 1)] for second, mib in samples],
        "growth": round(growth, 4),
    }


def main(given: argparse.Namespace) -> dict[str, Any]:
    """The whole report."""
    header = report_header(
        "serve", describe_machine("cpu") | load_average(), {k: str(v) for k, v in vars(given).items()}
    )
    with ExitStack() as stack:
        address, pid = (given.url, None) if given.url else start_server(stack, given.page > 0, given.precision)
        while httpx.get(f"{address}/readyz").status_code != 200:
            time.sleep(0.2)
        sound = speech(given.seconds)
        one_video(address, sound, "warm", given.size)
        alone = [one_video(address, sound, "one", given.size) for _ in range(given.runs)]
        report = header | {
            "api_seconds": {part: round(statistics.median(one[part] for one in alone), 3) for part in alone[0]},
            "load": [under_load(address, sound, users, given.size) for users in given.users],
        }
        if given.page:
            clicks = page_first_frames(address, given.page)
            report["page_first_frame_seconds"] = [round(seconds, 3) for seconds in clicks]
        if given.soak and pid:
            report["soak"] = soak(address, pid, sound, given.soak, given.size)
        report["load_average_after"] = round(os.getloadavg()[0], 2)
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="of a server that runs already")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each video")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--users", type=lambda text: [int(part) for part in text.split(",")], default=[1, 4, 8])
    parser.add_argument("--page", type=int, default=0, help="clicks in headless Chromium")
    parser.add_argument("--soak", type=float, default=0.0, help="minutes; 60 for an hour")
    parser.add_argument("--precision", choices=get_args(Precision), default="auto")
    parser.add_argument("--out", type=Path)
    settings = parser.parse_args()
    measured = main(settings)
    print(json.dumps(measured, indent=2))
    if settings.out:
        write_atomic(settings.out, json.dumps(measured, indent=2) + "\n")
