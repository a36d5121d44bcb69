"""The page of a real agent in a real browser."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from agent.cli.receiver import Receiver
from tests.helpers.agent import Agent, source, upstream, write_config
from tests.helpers.chromium import Chromium
from tests.unit.page.test_address import free_port

pytestmark = pytest.mark.slow
PICTURE = Path(__file__).resolve().parents[2] / "docs/page.png"
# What `paint` draws boxes with, and how many pixels of it the canvas has.
GREEN = """(() => { const canvas = document.querySelector('canvas');
    const pen = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', {willReadFrequently: true});
    pen.drawImage(canvas, 0, 0);
    const {data} = pen.getImageData(0, 0, canvas.width, canvas.height); let count = 0;
    for (let i = 0; i < data.length; i += 4) count += data[i] === 0x3d && data[i + 1] === 0xdc && data[i + 2] === 0x84;
    return count; })()"""
CANVAS = "document.querySelector('canvas').toDataURL('image/png').length"
NUMBERS = "['.fps', '.age', '.seen'].map((name) => document.querySelector(name).textContent).concat(charts()).join('|')"
MOVES = f"(() => {{ const charts = () => [...document.querySelectorAll('.chart path')].map((p) => p.getAttribute('d')); return {NUMBERS}; }})()"


@pytest.fixture
def browser(tmp_path):
    (tmp_path / "profile").mkdir()
    with Chromium(tmp_path / "profile") as one:
        yield one


@pytest.fixture
def agent(tmp_path, fresh_state, carphone):
    port = free_port()
    with Receiver(tmp_path / "up") as receiver:
        config = write_config(tmp_path, source("door", f"{carphone.as_uri()}?loop=1&pace=realtime"), '[device]\nid = "gate-7"\n',
                              f'[status]\nlisten = "127.0.0.1:{port}"\n', '[budget]\nmemory = "300MB"\n', upstream(receiver), state=fresh_state)
        yield from served(config, port)


def served(config, port):
    with Agent(config) as one:
        one.until(lambda s: s.found.get("face", 0) > 3)
        yield one, f"http://127.0.0.1:{port}", (one.socket.parent / "page-token").read_text()


def code(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_whoever_aims_the_camera_sees_what_the_agent_sees(agent, browser):
    one, base, token = agent
    assert [code(base + path) for path in ("/", "/now.json", "/picture/door", "/?token=wrong")] == [401] * 4
    tab = browser.tab()
    tab.look(width=1240, height=948, dark=True)
    tab.go(f"{base}/?token={token}")
    tab.until(f"{GREEN} > 300")
    assert tab.eval("location.href") == f"{base}/"
    assert tab.eval("document.cookie") == "", "the cookie is out of scripts' reach"
    assert tab.eval("document.querySelector('.seen').textContent") == "1"
    seen = set()
    for _ in range(12):
        seen.add((tab.eval(CANVAS), tab.eval(MOVES)))
        time.sleep(0.5)
    assert len({canvas for canvas, _ in seen}) > 6, "the picture moves"
    assert len({numbers for _, numbers in seen}) > 6, "the numbers move"
    if wanted := os.environ.get("VEDETTE_SCREENSHOT"):
        time.sleep(float(wanted))
        keep(tab)
    for dark, width in ((False, 390), (True, 390), (False, 1240)):
        tab.look(width=width, height=844, dark=dark)
        tab.until(f"{GREEN} > 300")
        assert tab.eval("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), "nothing hangs over the edge"
    assert tab.complaints == []
    assert {urlsplit(url).netloc for url in tab.requests if not url.startswith(("data:", "blob:"))} == {urlsplit(base).netloc}
    assert {status for status, _ in tab.statuses} <= {200, 204}
    assert token not in tab.eval("document.documentElement.outerHTML")
    printed = subprocess.run([sys.executable, "-m", "agent", "page", "-c", str(one.config)], capture_output=True, text=True, check=False)
    assert printed.stdout.splitlines()[0] == f"{base}/?token={token}"
    assert token not in one.said()
    assert one.stop() == 0
    tab.until("!document.getElementById('lost').hidden && document.getElementById('lost').textContent.includes('does not answer')")


def test_the_form_for_the_token_leads_in_and_a_stale_cookie_is_said(agent, browser, tmp_path):
    one, base, token = agent
    tab = browser.tab()
    tab.go(base)
    tab.until("!!document.querySelector('form input')")
    tab.eval(f"document.querySelector('input').value = '{token}'; document.querySelector('button').click()")
    tab.until(f"location.search === '' && {GREEN} > 300")
    assert one.stop() == 0
    with Agent(one.config) as again:
        again.until(lambda s: s.ready)
        tab.until("document.getElementById('lost').textContent.includes('vedette page')")
        assert "wrong token" in again.said()


def test_a_camera_that_is_away_is_said_over_its_last_picture(tmp_path, fresh_state, browser):
    port = free_port()
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8))
    config = write_config(tmp_path, source("still", f"images://{folder}?loop=1&fps=10", frozen_after="2s"), f'[status]\nlisten = "127.0.0.1:{port}"\n',
                          state=fresh_state)
    with Agent(config) as one:
        one.until(lambda s: s.ready)
        tab = browser.tab()
        tab.go(f"http://127.0.0.1:{port}/?token={(one.socket.parent / 'page-token').read_text()}")
        tab.until("document.querySelector('.source .pill').textContent === 'frozen'")
        tab.until("document.querySelector('.view.stale .over').textContent.includes('not changed')")
        tab.until("document.querySelector('#problems li')?.textContent.includes('frozen')")
        assert one.stop() == 0
    assert tab.complaints == [] or all("ERR_CONNECTION" in each for each in tab.complaints)


def keep(tab):
    """Save the page as the docs show it; a palette keeps it small."""
    raw = tab.screenshot(PICTURE.with_suffix(".raw.png"))
    subprocess.run([sys.executable, "-c", "import sys; from PIL import Image; Image.open(sys.argv[1]).convert('RGB').quantize(256, dither=0).save(sys.argv[2], optimize=True)",
                    str(raw), str(PICTURE)], check=True)
    raw.unlink()
