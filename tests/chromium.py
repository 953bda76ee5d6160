"""The browser that pages are tested in."""

import time
from pathlib import Path

from playwright.sync_api import Page

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def until(tab: Page, expression: str, expected: object, seconds: float = 20) -> None:
    """Wait until an expression has a value. (Playwright's own wait needs what the page's policy
    forbids: to evaluate text inside the page.)"""
    deadline = time.monotonic() + seconds
    while (found := tab.evaluate(expression)) != expected:
        assert time.monotonic() < deadline, f"{expression} is {found!r}, not {expected!r}"
        tab.wait_for_timeout(50)
