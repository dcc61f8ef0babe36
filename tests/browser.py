"""A headless Chromium for tests of pages, where one is installed; and contrast, computed."""

import contextlib
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> str:
    """Returns the program of a browser; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(NAMES)}")
    return found


@contextlib.contextmanager
def open_browsers() -> Iterator:
    """Yields what opens a browser with the profile of a folder, and further options."""
    pytest.importorskip("playwright")
    from playwright.sync_api import sync_playwright

    program = find_browser()
    with sync_playwright() as playwright:

        def launch(profile: Path, **options):
            arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
            return playwright.chromium.launch_persistent_context(
                profile, executable_path=program, args=arguments, **options
            )

        yield launch


def kill_browser(profile: Path) -> None:
    """Kills the browser of a profile, and all processes of it, as a power cut would."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if f"--user-data-dir={profile}" in process.cmdline():
                os.kill(process.pid, signal.SIGKILL)


def read_palettes(css: str) -> list[dict[str, str]]:
    """Returns the colours by name of each `:root` of a style sheet: light, then dark."""
    found: list[dict[str, str]] = []
    for block in re.findall(r":root\s*\{(.*?)\}", css, re.S):
        named = dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", block))
        found.append({**(found[0] if found else {}), **named})
    return found


def compute_contrast(first: str, second: str) -> float:
    """Returns the contrast ratio of two colours `#rrggbb` (WCAG 2.2, relative luminance)."""

    def measure(color: str) -> float:
        parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((measure(first), measure(second)))
    return (high + 0.05) / (low + 0.05)
