"""A headless Chromium that reaches this machine alone, driven over two pipes by the DevTools protocol."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT = 60
"""Seconds for an answer of the browser, or for what a test waits for."""
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Tab": 9, " ": 32}

_MIDDLE = """(selector) => {
  const it = document.querySelector(selector);
  it.scrollIntoView({ block: "center" });
  const box = it.getBoundingClientRect();
  return [box.left + box.width / 2, box.top + box.height / 2];
}"""


@contextmanager
def browser():
    """A new browser with an empty profile; gives a `Page`."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--hide-scrollbars"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        (its_in, our_out), (our_in, its_out) = os.pipe(), os.pipe()

        def as_three_and_four():
            spare = [os.dup(its_in), os.dup(its_out)]  # neither is overwritten by the other
            os.dup2(spare[0], 3)
            os.dup2(spare[1], 4)

        command = [PROGRAM, *options, f"--user-data-dir={profile}", "about:blank"]
        # Chromium reads commands from its file 3 and writes answers to its file 4.
        process = subprocess.Popen(
            command, preexec_fn=as_three_and_four, pass_fds=(3, 4), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        os.close(its_in)
        os.close(its_out)
        try:
            yield Page(our_in, our_out)
        finally:
            process.terminate()
            process.wait(timeout=WAIT)
            os.close(our_in)
            os.close(our_out)


class Page:
    """A tab, and what went wrong in it since the last `open`: errors in the console, requests to elsewhere."""

    def __init__(self, reading, writing):
        self.reading, self.writing, self.rest, self.count, self.session = reading, writing, b"", 0, None
        self.faults, self.requests, self.loaded, self.host = [], [], False, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.size(1280, 900)

    def call(self, method, **parameters):
        """The answer to one command."""
        self.count += 1
        number, session = self.count, {"sessionId": self.session} if self.session else {}
        text = json.dumps({"id": number, "method": method, "params": parameters, **session})
        os.write(self.writing, text.encode() + b"\0")
        while (message := self._read()).get("id") != number:
            pass
        assert "error" not in message, (method, message["error"])
        return message["result"]

    def size(self, width, height, dark=False):
        """Of the window, in CSS pixels, and which colours are preferred."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)

    def open(self, address):
        """Load a page, and wait until it has loaded."""
        for url in ("about:blank", address):  # first away from the page before, which may still ask its server
            self.faults, self.requests, self.loaded = [], [], False
            self.call("Page.navigate", url=url)
            while not self.loaded:
                self._read()

    def evaluate(self, expression):
        """The value of an expression in JavaScript, of a promise what it becomes."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression):
        """Until an expression is true."""
        end = time.monotonic() + WAIT
        while not self.evaluate(f"Boolean({expression})"):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.02)

    def key(self, key, shift=False):
        """Press a key."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        common = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def middle(self, selector):
        """The middle of an element, in CSS pixels of the window, once it is in view."""
        return self.evaluate(f"({_MIDDLE})({json.dumps(selector)})")

    def mouse(self, kind, x, y, down=False):
        """`moved`, `pressed` or `released` at a place of the window."""
        button = {"button": "left", "buttons": 1 if down else 0, "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind.capitalize()}", x=x, y=y, **button)

    def click(self, selector):
        """Click on the middle of an element."""
        at = self.middle(selector)
        for kind in ("moved", "pressed", "released"):
            self.mouse(kind, *at, down=kind == "pressed")

    def picture(self, whole=True):
        """What is shown, or the whole page, as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])

    def _read(self):
        while b"\0" not in self.rest:
            assert select.select([self.reading], [], [], WAIT)[0], "the browser does not answer"
            part = os.read(self.reading, 1 << 20)
            assert part, "the browser has ended"
            self.rest += part
        text, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method, told):
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.exceptionThrown":
            self.faults.append(told["exceptionDetails"].get("exception", {}).get("description", told))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.faults.append(told["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            self.faults.append(told["args"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
