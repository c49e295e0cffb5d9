"""Pyppeteer, unmodified, on the filtered browser: what is allowed works, what is not is not there. Prints one JSON line.

Arguments: the endpoint, the allowed site's origin, the forbidden one's.
"""

import asyncio
import json
import sys

from pyppeteer import connect
from pyppeteer.errors import NetworkError, PageError

endpoint, app, bank = sys.argv[1:]
checks = []


def check(name: str, passed: bool, detail: object = None) -> None:
    assert passed, f"{name}: {detail!r}"
    checks.append(name)


async def refused(name: str, act, *words: str) -> None:
    try:
        result = await act
    except (NetworkError, PageError) as error:
        check(name, any(word in str(error) for word in words), str(error))
    else:
        check(name, False, result)


async def eventually(name: str, look) -> None:
    for _ in range(600):
        if look():
            break
        await asyncio.sleep(0.1)
    check(name, look())


async def main() -> None:
    browser = await connect(browserURL=endpoint)
    gone = []
    browser.on("targetdestroyed", lambda target: gone.append(target.url))
    pages = await browser.pages()
    check("only the allowed tab is there", [page.url for page in pages] == [f"{app}/"], [page.url for page in pages])
    check("nor is another target", not any(bank in target.url for target in browser.targets()))
    page = pages[0]
    check("title", await page.title() == "My App")
    await page.type("#i", "world")
    await page.click("#b")
    check("drive", await page.evaluate("document.getElementById('o').textContent") == "hello world")
    check("screenshot", (await page.screenshot()).startswith(b"\x89PNG"))
    seen = []
    page.on("request", lambda request: seen.append(request.url))
    await asyncio.gather(page.waitForNavigation(), page.click("#next"))
    answer = await page.goto(f"{app}/goto")
    check("navigate", answer.status == 200 and page.url == f"{app}/goto", page.url)
    check("requests", seen == [f"{app}/next", f"{app}/goto"], seen)
    said = []
    page.on("console", lambda message: said.append(message.text))
    await page.exposeFunction("increment", lambda number: number + 1)
    check("exposeFunction", await page.evaluate("increment(1)") == 2)
    await page.evaluateOnNewDocument("window.initial = 7")
    await page.reload()
    check("a script for new documents", await page.evaluate("console.log('hi'), window.initial") == 7)
    await eventually("console", lambda: said == ["hi"])
    session = await page.target.createCDPSession()
    result = await session.send("Runtime.evaluate", {"expression": "1 + 1"})
    check("a session of one's own", result["result"]["value"] == 2)
    await session.detach()

    await refused("the bank", page.goto(bank), "no [[cdp_target]]")
    await refused("a file", page.goto("file:///etc/passwd"), "no [[cdp_target]]")
    await refused("cookies", page.cookies(), "agent-creds refuses")

    new = await browser.newPage()
    await new.goto(f"{app}/new")
    check("a new page", await new.title() == "My App" and len(await browser.pages()) == 2)
    await new.close()
    await eventually("it is closed", lambda: gone == [f"{app}/new"])
    context = await browser.createIncognitoBrowserContext()
    own = await context.newPage()
    await own.goto(f"{app}/context")
    check("cookies of a context of one's own", [cookie["name"] for cookie in await own.cookies()] == ["sid"])
    await context.close()
    check("one page is left", [page.url for page in await browser.pages()] == [f"{app}/goto"])
    check("version", (await browser.version()).startswith("Chrome/"))
    await browser.disconnect()


asyncio.run(main())
print(json.dumps({"checks": checks}))
