"""Opens every page of the built site in Chromium, without a network, and reports what went wrong there.

    make docs
    .venv/bin/python docs/check_site.py                         # all pages: prints faults, ends with 1 if there are any
    .venv/bin/python docs/check_site.py --pictures runs/site learn/index.html       # some pages, photographed

A fault is an error in the console, a request that fails or leaves the site, a formula that was not drawn, or a page
that is wider than a narrow screen. Needs `chromium` or `google-chrome`; the rest comes with the extra `docs`.
"""

import argparse
import asyncio
import base64
import functools
import http.server
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import WebSocketClientConnection, websocket_connect

SITE = Path(__file__).parent / "_build" / "html"
WIDTHS = {"wide": 1280, "narrow": 390}

# Waits for the formulas, then counts those that are missing or wrong, and how far the page is too wide.
_LOOK = """(async () => {
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
  const formulas = document.querySelectorAll('.math').length;
  return {
    formulas,
    undrawn: window.MathJax || !formulas ? 0 : formulas,
    wrong: document.querySelectorAll('mjx-merror').length,
    excess: document.documentElement.scrollWidth - window.innerWidth,
  };
})()"""


class Page:
    """One tab of the browser, and what it has reported since the last `open`."""

    def __init__(self, socket: WebSocketClientConnection, host: str) -> None:
        self.socket, self.host, self.count = socket, host, 0
        self.faults: list[str] = []
        self.loaded = False

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command of the DevTools protocol and wait for its answer."""
        self.count += 1
        number = self.count
        await self.socket.write_message(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := await self._read()).get("id") != number:
            pass
        return message.get("result", {})

    async def open(self, path: str) -> None:
        """Load a page and wait until it has loaded."""
        self.faults, self.loaded = [], False
        await self.call("Page.navigate", url=f"{self.host}/{path}")
        while not self.loaded:
            await self._read()

    async def _read(self) -> dict[str, Any]:
        text = await asyncio.wait_for(self.socket.read_message(), timeout=60)
        message = json.loads(text or "{}")
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, told: dict[str, Any]) -> None:
        """Keep what an event says, if it is a fault."""
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.exceptionThrown":
            self.faults.append(f"exception: {told['exceptionDetails'].get('text')}")
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.faults.append(f"console: {told['entry']['text']} {told['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and told["type"] == "error":
            self.faults.append(f"console: {told['args']}")
        elif method == "Network.requestWillBeSent" and not told["request"]["url"].startswith((self.host, "data:")):
            self.faults.append(f"a request leaves the site: {told['request']['url']}")


async def look(page: Page, path: str, width: int, theme: str) -> list[str]:
    """The faults of one page at one width."""
    await page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    scheme = [{"name": "prefers-color-scheme", "value": theme}]
    await page.call("Emulation.setEmulatedMedia", features=scheme)
    await page.open(path)
    answer = await page.call("Runtime.evaluate", expression=_LOOK, awaitPromise=True, returnByValue=True)
    seen = answer["result"]["value"]
    faults = list(page.faults)
    faults += [f"{seen['undrawn']} formulas are not drawn"] if seen["undrawn"] else []
    faults += [f"{seen['wrong']} formulas have an error"] if seen["wrong"] else []
    faults += [f"{seen['excess']} pixels too wide at {width}"] if seen["excess"] > 0 else []
    return faults


async def photograph(page: Page, target: Path) -> None:
    """Save a picture of what the window shows."""
    shot = await page.call("Page.captureScreenshot", format="png")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(base64.b64decode(shot["data"]))


async def visit(page: Page, paths: list[str], pictures: Path | None) -> int:
    """Open all pages, narrow and wide, light and dark if pictures are wanted; the number of faults."""
    for domain in ("Page", "Runtime", "Log", "Network"):
        await page.call(f"{domain}.enable")
    total = 0
    views = [(w, t) for w in WIDTHS for t in ("light", "dark")] if pictures else [("narrow", "light")]
    for path in paths:
        for name, theme in views:
            for fault in await look(page, path, WIDTHS[name], theme):
                total += 1
                print(f"{path}: {fault}")
            if pictures:
                await photograph(page, pictures / f"{path.replace('/', '-').removesuffix('.html')}-{name}-{theme}.png")
    return total


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The site at an address of this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            """Say nothing of each request."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def browser() -> Iterator[str]:
    """A headless Chromium that reaches this machine alone; the address of its DevTools."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        sys.exit("chromium is not installed: install it, e.g. by `apt-get install chromium`")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        offline = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", offline]
        options += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen([program, *options], stderr=subprocess.PIPE, text=True)
        try:
            yield _address(process)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stderr
    for line in process.stderr:
        if "DevTools listening on ws://" in line:
            threading.Thread(target=process.stderr.read, daemon=True).start()  # so that its pipe never fills
            return "http://" + line.split("ws://")[1].split("/")[0]
    sys.exit("chromium did not start")


async def run(paths: list[str], pictures: Path | None) -> int:
    """Check the pages; the number of faults."""
    with served(SITE) as host, browser() as devtools:
        answer = await AsyncHTTPClient().fetch(f"{devtools}/json/list")
        tab = next(tab for tab in json.loads(answer.body) if tab["type"] == "page")
        socket = await websocket_connect(tab["webSocketDebuggerUrl"], max_message_size=1 << 28)
        return await visit(Page(socket, host), paths, pictures)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pages", nargs="*", help="pages below docs/_build/html (default: all)")
    parser.add_argument("--pictures", type=Path, help="a folder for screenshots, wide and narrow, light and dark")
    given = parser.parse_args()
    every = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html") if "_static" not in path.parts)
    paths = given.pages or every
    faults = asyncio.run(run(paths, given.pictures))
    print(f"{len(paths)} pages, {faults} faults")
    return 1 if faults or not paths else 0


if __name__ == "__main__":
    sys.exit(main())
