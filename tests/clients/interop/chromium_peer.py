"""A peer by Chromium, which has dcsctp. Commands from stdin; see `foreign.py` for what they are."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.async_api import Error, async_playwright

ARGUMENTS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
SCRIPT = Path(__file__).parent.parent / "js" / "data_peer.mjs"
START = "window.handle = dataPeer({RTCPeerConnection, tell: (event) => tell(event)})"


def tell(message: dict[str, Any]) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


async def main() -> None:
    lines = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with async_playwright() as playwright:
        path = shutil.which("chromium") or "/usr/bin/chromium"
        browser = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS.split())
        page = await browser.new_page()
        await page.expose_function("tell", tell)
        await page.goto("about:blank")
        await page.add_script_tag(content=SCRIPT.read_text().replace("export function", "function") + START)
        tell({"event": "ready"})
        while line := await lines.readline():
            command = json.loads(line)
            try:
                tell({"reply": command["id"], "result": await page.evaluate("(one) => handle(one)", command)})
            except Error as error:
                tell({"reply": command["id"], "error": error.message})
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
