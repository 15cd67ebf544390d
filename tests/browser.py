"""Chromium driven by keys over its DevTools pipe: nothing is needed besides the browser."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
_KEYS = {
    "Enter": (13, "\r"), "Tab": (9, ""), "ArrowLeft": (37, ""), "ArrowRight": (39, ""),
    "ArrowDown": (40, ""),
}  # fmt: skip
_LIMIT_S = 60


class Browser:
    """One tab. Methods raise AssertionError when the browser does not answer in a minute."""

    def __init__(self, to: int, of: int) -> None:
        self._to, self._of = to, of
        self._count, self._rest = 0, b""
        self._session: str | None = None
        self.requests: list[str] = []
        """Addresses of all that was asked for, but data: and blob:."""
        (tab,) = (t for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        found = self._call("Target.attachToTarget", targetId=tab["targetId"], flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self._call(f"{domain}.enable")
        self._call("Emulation.setFocusEmulationEnabled", enabled=True)

    def screen(self, width: int, height: int) -> None:
        """Give the tab this size in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def downloads_to(self, folder: Path) -> None:
        """Save what is downloaded there, without asking."""
        self._call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def open(self, address: str) -> None:
        """Go to a page and wait until it is there."""
        self._call("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def reload(self) -> None:
        """As F5 does."""
        self.evaluate("window.isOld = true")
        self._call("Page.reload")
        self.until("!window.isOld && document.readyState === 'complete'")

    def press(self, key: str) -> None:
        """Press a key and let go, as a person's keyboard does."""
        code, text = _KEYS.get(key) or (ord(key.upper()), key)
        event = {"key": key, "windowsVirtualKeyCode": code}
        self._call("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        self._call("Input.dispatchKeyEvent", type="keyUp", **event)

    def evaluate(self, script: str) -> Any:
        """The value of a script in the page."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, f"{script}: {found['exceptionDetails']}"
        return found["result"].get("value")

    def until(self, script: str) -> Any:
        """The value of a script, once it is true."""
        end = time.monotonic() + _LIMIT_S
        while not (value := self._tried(script)):
            assert time.monotonic() < end, f"{script} stays {value!r}"
            time.sleep(0.02)
        return value

    def until_there(self, path: Path) -> None:
        """Wait for a download."""
        end = time.monotonic() + _LIMIT_S
        while not path.exists():
            assert time.monotonic() < end, f"{path} does not come"
            time.sleep(0.02)

    def screenshot(self) -> bytes:
        """What is seen, as PNG."""

        return base64.b64decode(self._call("Page.captureScreenshot")["data"])

    def _tried(self, script: str) -> Any:
        try:
            return self.evaluate(script)
        except AssertionError:
            return None  # Between two pages there is nothing to ask.

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        asked: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            asked["sessionId"] = self._session
        os.write(self._to, json.dumps(asked).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("method") == "Network.requestWillBeSent":
                address = message["params"]["request"]["url"]
                if not address.startswith(("data:", "blob:")):
                    self.requests.append(address)
            if message.get("id") == self._count:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            block = os.read(self._of, 1 << 20)
            assert block, "the browser has gone"
            self._rest += block
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with this profile, without a window; it ends with the block."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    # The protocol's pipe is descriptors 3 and 4, whatever else is open.
    script = f'exec 3<&{to_read} 4>&{from_write}; exec "$@"'
    process = subprocess.Popen(
        [
            *("bash", "-c", script, "bash", CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--mute-audio"),
            *(f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"),
        ],
        pass_fds=(to_read, from_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(from_write)
    try:
        yield Browser(to_write, from_read)
    finally:
        os.close(to_write)
        os.close(from_read)
        process.kill()
        process.wait()
