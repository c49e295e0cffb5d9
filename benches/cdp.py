"""Playwright's actions and screenshots at two endpoints of one Chrome, in turn; medians.

Arguments: the direct endpoint, the filtered one, the port for the site, how many actions, how many megabytes, how many rounds.
"""

import statistics
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from playwright.sync_api import Page, sync_playwright

direct, filtered = sys.argv[1:3]
port, actions, megabytes, rounds = map(int, sys.argv[3:])

# Noise, which compresses to nothing smaller: a screenshot is some megabytes.
SITE = b"""<!doctype html><title>bench</title><form onsubmit="document.getElementById('o').textContent =
document.getElementById('i').value; return false"><input id=i><button id=b>Go</button></form><p id=o></p><canvas id=c width=1200
height=900></canvas><script>const g = document.getElementById('c').getContext('2d'), d = g.createImageData(1200, 900);
for (let at = 0; at < d.data.length; at += 65536) crypto.getRandomValues(d.data.subarray(at, Math.min(at + 65536, d.data.length)));
for (let at = 3; at < d.data.length; at += 4) d.data[at] = 255; g.putImageData(d, 0, 0)</script>"""


class Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-length", str(len(SITE)))
        self.end_headers()
        self.wfile.write(SITE)

    def log_message(self, *_: object) -> None:
        pass


def act(page: Page, at: int) -> None:
    match at % 5:
        case 0:
            page.fill("#i", f"word {at}")
        case 1:
            page.click("#b")
        case 2:
            assert page.inner_text("#o").startswith("word ")
        case 3:
            assert page.evaluate("at => at + 1", at) == at + 1
        case 4:
            assert page.title() == "bench"


def measure(endpoint: str) -> tuple[float, float, float]:
    """Actions per second, the median of one action in milliseconds, megabytes of screenshots per second."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.connect_over_cdp(endpoint)
        page = browser.contexts[0].new_page()
        page.set_viewport_size({"width": 1280, "height": 1000})
        page.goto(f"http://localhost:{port}/")
        for at in range(20):
            act(page, at)
        times = []
        for at in range(actions):
            begun = time.perf_counter()
            act(page, at)
            times.append(time.perf_counter() - begun)
        session = page.context.new_cdp_session(page)
        received, begun = 0, time.perf_counter()
        while received < megabytes * 1_000_000:
            received += len(session.send("Page.captureScreenshot", {"format": "png", "optimizeForSpeed": True})["data"])
        speed = received / 1e6 / (time.perf_counter() - begun)
        page.close()
        browser.close()
    return actions / sum(times), statistics.median(times) * 1e3, speed


server = ThreadingHTTPServer(("127.0.0.1", port), Site)
threading.Thread(target=server.serve_forever, daemon=True).start()
results: dict[str, list[tuple[float, float, float]]] = {"direct": [], "filtered": []}
for at in range(rounds):
    # In turn, each first as often as the other.
    for name in (["direct", "filtered"] if at % 2 == 0 else ["filtered", "direct"]):
        results[name].append(measure(direct if name == "direct" else filtered))
medians = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in results.items()}
for name, (rate, once, speed) in medians.items():
    print(f"{name:9} {rate:8.0f} actions/s   p50 {once:6.2f} ms   screenshots {speed:6.1f} MB/s")
a, b = medians["direct"], medians["filtered"]
print(f"ratio     {b[0] / a[0]:8.2f}               {b[1] / a[1]:6.2f}                  {b[2] / a[2]:6.2f}")
