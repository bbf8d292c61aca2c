"""A blank page of Chromium on a pipe: a line of JSON `[javascript, argument]` in, a line `[result, error]` out.

Run as a program, so that Playwright's event loop stays out of the test process.
"""

from __future__ import annotations

import json
import shutil
import sys

from playwright.sync_api import Error, sync_playwright

ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --use-fake-device-for-media-stream --use-fake-ui-for-media-stream "
    "--autoplay-policy=no-user-gesture-required"
)


def main() -> None:
    """Serve until the input ends."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or "/usr/bin/chromium"
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS.split())
        page = browser.new_page()
        page.goto("about:blank")
        for line in sys.stdin:
            script, argument = json.loads(line)
            try:
                reply = [page.evaluate(script, argument), None]
            except Error as error:
                reply = [None, error.message]
            sys.stdout.write(json.dumps(reply) + "\n")
            sys.stdout.flush()
        browser.close()


if __name__ == "__main__":
    main()
