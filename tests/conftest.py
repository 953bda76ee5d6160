"""What several files of tests share."""

import os
from collections.abc import Iterator

import pytest
from chromium import CHROMIUM, FLAGS
from playwright.sync_api import Browser, sync_playwright

from raytransfer.schedule.session import set_environment

# Before a test imports Ray, as the command line does.
set_environment()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        reason = f"the page is tested in Chromium, and there is no {CHROMIUM}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
