"""The page in Chromium, by the W3C WebDriver protocol: keys, dragging, a reload in between, the answers it saves."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m4v.evaluation.user_study.answers import read_answers
from m4v.evaluation.user_study.build import build
from m4v.evaluation.user_study.study import Study
from m4v.media.video import write_video

_MISSING = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(_MISSING), reason=f"needs {' and '.join(_MISSING)} (Debian: chromium, chromium-driver)"),
]
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
_DRAG = """
const [chip, slot] = [document.querySelectorAll('fieldset')[arguments[0]].querySelectorAll('.chip')[arguments[1]],
                      document.querySelectorAll('fieldset')[arguments[0]].querySelectorAll('.slot')[arguments[2]]];
const data = new DataTransfer();
for (const [target, kind] of [[chip, 'dragstart'], [slot, 'dragover'], [slot, 'drop']])
  target.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
"""


class Browser:
    """One session."""

    def __init__(self, address: str, profile: Path) -> None:
        self.address = address
        options = {"args": [*_FLAGS, f"--user-data-dir={profile}"], "binary": shutil.which("chromium")}
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
        self.session = f"/session/{made['sessionId']}"

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, url: str) -> None:
        self._call("POST", f"{self.session}/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        return self._call("POST", f"{self.session}/execute/sync", {"script": script, "args": list(arguments)})

    def click(self, selector: str) -> None:
        self._call("POST", f"{self.session}/element/{self._find(selector)}/click", {})

    def press(self, key: str) -> None:
        """Press a key where the focus is."""
        focused = self._call("GET", f"{self.session}/element/active")[_ELEMENT]
        self._call("POST", f"{self.session}/element/{focused}/value", {"text": key})

    def _find(self, selector: str) -> str:
        found = self._call("POST", f"{self.session}/element", {"using": "css selector", "value": selector})
        return str(found[_ELEMENT])

    def close(self) -> None:
        self._call("DELETE", self.session)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL)
    try:
        opened = _opened(f"http://127.0.0.1:{port}", tmp_path / "profile")
        yield opened
        opened.close()
    finally:
        driver.terminate()
        driver.wait(timeout=20)


def _opened(address: str, profile: Path) -> Browser:
    for _ in range(100):
        try:
            return Browser(address, profile)
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError("chromedriver does not answer")


def _page(tmp_path: Path, methods: tuple[str, ...], mode: Any) -> tuple[Study, Path]:
    study = Study.plan(methods, ("a red ball", "a blue cube"), mode=mode)
    videos: dict[str, dict[str, Path]] = {}
    for number, method in enumerate(methods):
        for prompt in ("a red ball", "a blue cube"):
            path = tmp_path / f"{method} {prompt}.mp4"
            write_video(path, np.full((4, 32, 32, 3), 60 * number, dtype=np.uint8), 8.0)
            videos.setdefault(method, {})[prompt] = path
    build(study, videos, tmp_path / "out", "Which?")
    return study, tmp_path / "out" / "index.html"


def _begin(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    assert browser.run("return document.getElementById('begin').disabled")
    browser.click("#agree")
    browser.click("#begin")


def _saved(browser: Browser, tmp_path: Path) -> Path:
    path = tmp_path / "answers.json"
    path.write_text(browser.run("return document.querySelector('textarea').value"))
    return path


def test_a_rater_ranks_by_keyboard_and_goes_on_after_a_reload(browser: Browser, tmp_path: Path) -> None:
    study, page = _page(tmp_path, ("ours", "theirs", "third"), "rank")
    _begin(browser, page)
    for question in range(2):
        shown = browser.run("return document.getElementById('prompt').textContent")
        assert shown == study.questions[question].prompt
        for board in range(3):
            for chip in range(3):
                browser.run(
                    "document.querySelectorAll('fieldset')[arguments[0]].querySelectorAll('.chip')[0].focus()", board
                )
                assert browser.run("return document.getElementById('next').disabled")
                browser.press(str((chip + question) % 3 + 1))
        browser.click("#next")
        browser.open(page.as_uri())  # the first answer survives, and so does the end
    read = read_answers(_saved(browser, tmp_path), study)
    for number, question in enumerate(study.questions):
        expected = [(place + number) % 3 + 1 for place in range(3)]
        assert (read.ranks[:, number, list(question.methods)] == expected).all()


def test_a_rater_drags_places_change_and_pairs_may_tie(browser: Browser, tmp_path: Path) -> None:
    study, page = _page(tmp_path, ("ours", "theirs"), "rank")
    _begin(browser, page)
    for _ in range(2):
        for board in range(3):
            browser.run(_DRAG, board, 0, 0)  # the first letter to the first place
            browser.run(_DRAG, board, 0, 1)  # the second letter, now alone in the pool, to the second
            browser.run(_DRAG, board, 0, 1)  # and what stands first to the second: they change places
        browser.click("#next")
    read = read_answers(_saved(browser, tmp_path), study)
    for number, question in enumerate(study.questions):
        assert sorted(read.ranks[0, number, list(question.methods)]) == [1, 2]
