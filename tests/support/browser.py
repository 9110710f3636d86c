"""A page in Chromium, as its reader has it: its size, its colours, its errors, and its findings of accessibility."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Browser", "checked", "chromium", "opened"]

Browser = Any
"""A browser of Playwright."""

_PHONE, _DESK = 390, 1440
_HEIGHT = 900


@contextmanager
def chromium() -> Iterator[Browser]:
    """The Chromium of this machine; a test is skipped where it, or Playwright, is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium, or set CHROMIUM to its path")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def checked(browser: Browser, path: Path) -> Any:
    """The page of a file, of which everything loads, that fits a phone, and that everybody can read."""
    page = opened(browser, path)
    _check_pictures(page)
    for width in (_PHONE, _DESK):
        page.set_viewport_size({"width": width, "height": _HEIGHT})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    _check_access(page)
    page.emulate_media(color_scheme="dark")
    _check_access(page)
    return page


def opened(browser: Browser, path: Path, *, script: bool = True) -> Any:
    """The page of a file, which asks for nothing, and has no error."""
    context = browser.new_context(viewport={"width": _DESK, "height": _HEIGHT}, java_script_enabled=script)
    page, said = context.new_page(), list[str]()
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda request: said.append(request.url) if not _is_own(request.url, path) else None)
    page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
    page.goto(path.as_uri())
    assert said == []
    return page


def _is_own(url: str, path: Path) -> bool:
    return url == path.as_uri() or url.startswith("data:")


def _check_pictures(page: Any) -> None:
    broken = "[...document.images].filter(image => !(image.complete && image.naturalWidth > 0)).map(image => image.alt)"
    assert page.evaluate(broken) == []
    assert page.evaluate("[...document.images].filter(image => image.alt.trim() === '').length") == 0


def _check_access(page: Any) -> None:
    """Check that axe-core finds nothing serious."""
    import axe_playwright_python

    # The page's own policy lets no other script in: this one comes from the browser, and not from the page.
    source = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text("utf-8")
    page.evaluate(source)
    found = page.evaluate("axe.run()")["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in serious] == []
