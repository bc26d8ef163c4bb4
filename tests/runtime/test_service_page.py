"""The page of `zoo-runtime serve` in a browser. Skipped with a reason where playwright or Chromium is missing."""

from __future__ import annotations

import os
import shutil

import pytest

for needed in ("starlette", "uvicorn", "prometheus_client", "python_multipart"):
    pytest.importorskip(needed, reason="needs the extra `serve`")

from test_service_connections import LIMITS, running  # noqa: E402

from zoo_runtime._service.app import Access  # noqa: E402

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        pytest.skip("Chromium was not found; CHROMIUM may name its file")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 390, "height": 844})
    yield context.new_page()
    context.close()


def test_a_busy_service_is_asked_again(model, pictures, page, monkeypatch):
    with running(model) as (service, port):
        page.goto(f"http://127.0.0.1:{port}/")
        # The page is ready when it knows the models.
        page.wait_for_selector("#work:visible")
        monkeypatch.setattr(service.workers, "admitted", LIMITS.concurrency + LIMITS.queue)
        page.set_input_files("#file", pictures / "red.jpg")
        page.wait_for_selector("#again:visible")
        assert "The service is busy" in page.inner_text("#error")
        service.workers.admitted = 0
        page.click("#again")
        page.wait_for_selector("#verdict:text-is('red')")
        assert page.is_hidden("#again") and page.is_hidden("#error")


def test_what_is_no_picture(model, page, tmp_path):
    odd = tmp_path / "odd.jpg"
    odd.write_bytes(bytes(range(1, 200)))
    with running(model) as (_, port):
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("#work:visible")
        page.set_input_files("#file", odd)
        page.wait_for_selector("#error:visible")
        text = page.inner_text("#error")
        assert text.startswith("Not a picture in a supported format (JPEG, PNG,") and "--formats default,tga" in text
        assert "formats=" not in text and page.is_hidden("#again")
        assert page.inner_text("#no-preview") == "This browser cannot show the file."


def test_a_token_with_characters_that_no_browser_sends(model, page):
    with running(model, access=Access(token="a-very-secret-token")) as (_, port):
        page.goto(f"http://127.0.0.1:{port}/")
        for token in ("gr\u00fc\u00dfe", "wrong"):
            page.fill("#token", token)
            page.click("text=Continue")
            page.wait_for_selector("#fatal:visible")
            assert page.inner_text("#fatal") == "This token is wrong."
        page.reload()
        page.fill("#token", "a-very-secret-token")
        page.click("text=Continue")
        page.wait_for_selector("#work:visible")
