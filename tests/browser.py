"""A headless Chromium that opens a file, lets its scripts run, and says what became of the page."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=20000",
    "--disable-features=IsolateSandboxedIframes",  # its virtual time is that of one process
    "--enable-logging=stderr",
]
CONSOLE = re.compile(r"CONSOLE[:(].*")


@dataclass(frozen=True)
class Page:
    """What a browser made of a page."""

    dom: str
    console: list[str]
    """everything that was logged, errors and refused content among it"""
    said: Any
    """what the driver returned"""


def open_page(
    file: Path, driver: str, hash_: str = "", width: int = 1200, around: Callable[[str], str] = lambda page: page
) -> Page:
    """Open a report, run the body of an async function in it after its scripts, and return what that returned.

    The page's content security policy is kept: the driver's hash is added to it.

    Args:
        around: the page that is opened, of the report's with its driver; one with the report in a frame hears from
            there what the driver returned.
    """
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / "page.html"
        page = around(_with_driver(file.read_text(encoding="utf-8"), driver))
        copy.write_text(page, encoding="utf-8")
        profile, size = f"--user-data-dir={folder}/profile", f"--window-size={width},1000"
        command = [CHROMIUM, *FLAGS, profile, size, "--dump-dom", f"{copy.as_uri()}{hash_}"]
        done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    dom = done.stdout.decode("utf-8", "replace")
    console = CONSOLE.findall(done.stderr.decode("utf-8", "replace"))
    message = re.search(r'<pre id="said">(.*?)</pre>', dom, re.DOTALL)
    assert message, f"the driver said nothing; console: {console}; stderr: {done.stderr[-2000:]!r}"
    returned = json.loads(html.unescape(message[1]))
    assert "error" not in returned, returned["error"]
    return Page(dom, console, returned)


def _with_driver(page: str, driver: str) -> str:
    script = f"""
(async () => {{
  const rest = (ms) => new Promise((f) => setTimeout(f, ms));
  while (document.getElementById("browser")?.hidden ?? true) await rest(20);
  let said;
  try {{ said = await (async () => {{ {driver} }})(); }} catch (error) {{ said = {{ error: String(error.stack) }}; }}
  const box = document.createElement("pre");
  box.id = "said";
  box.textContent = JSON.stringify(said);
  document.body.append(box);
  if (parent !== window) parent.postMessage(box.textContent, "*");
}})();
"""
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    with_policy = page.replace("script-src ", f"script-src &#39;sha256-{allowed}&#39; ", 1)
    assert with_policy != page
    return with_policy.replace("</body>", f"<script>{script}</script></body>")
