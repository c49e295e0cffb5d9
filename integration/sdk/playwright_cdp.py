"""Playwright, unmodified, on the filtered browser: what is allowed works, what is not is not there. Prints one JSON line.

Arguments: the endpoint, the allowed site's origin, the forbidden one's.
"""

import json
import sys

from playwright.sync_api import Error, sync_playwright

endpoint, app, bank = sys.argv[1:]
checks = []


def check(name: str, passed: bool, detail: object = None) -> None:
    assert passed, f"{name}: {detail!r}"
    checks.append(name)


def refused(name: str, act, *words: str) -> None:
    try:
        result = act()
    except Error as error:
        check(name, any(word in str(error) for word in words), str(error))
    else:
        check(name, False, result)


with sync_playwright() as playwright:
    browser = playwright.chromium.connect_over_cdp(endpoint, timeout=60_000)
    context = browser.contexts[0]
    check("only the allowed tab is there", [page.url for page in context.pages] == [f"{app}/"], [page.url for page in context.pages])
    page = context.pages[0]
    page.set_default_timeout(60_000)
    check("title", page.title() == "My App", page.title())
    page.fill("#i", "world")
    page.click("#b")
    check("drive", page.inner_text("#o") == "hello world")
    check("screenshot", page.screenshot().startswith(b"\x89PNG"))
    check("pdf", page.pdf().startswith(b"%PDF"))
    page.click("#next")
    page.wait_for_url("**/next")
    page.goto(f"{app}/goto")
    check("navigate", page.inner_text("#h") == "My App /goto")
    # A page that comes back from the cache loads nothing.
    page.go_back(wait_until="commit")
    check("history", page.url == f"{app}/next", page.url)
    page.expose_function("increment", lambda number: number + 1)
    check("expose_function", page.evaluate("increment(1)") == 2)
    page.add_init_script("window.initial = 7")
    page.reload()
    check("init script", page.evaluate("window.initial") == 7)
    page.route("**/fulfilled", lambda route: route.fulfill(body="<title>fulfilled</title>", content_type="text/html"))
    page.goto(f"{app}/fulfilled")
    check("route", page.title() == "fulfilled", page.title())
    page.unroute_all()
    session = context.new_cdp_session(page)
    check("a session of one's own", session.send("Runtime.evaluate", {"expression": "1 + 1"})["result"]["value"] == 2)
    session.detach()

    refused("cookies of the user", context.cookies, "agent-creds refuses")
    refused("storage of the user", context.storage_state, "agent-creds refuses")
    refused("another site", lambda: page.goto(f"{bank}/"), "no [[cdp_target]]")
    for url in ["file:///etc/passwd", "chrome://settings/", "view-source:" + app]:
        refused(url, lambda: page.goto(url), "agent-creds refuses")

    new = context.new_page()
    new.goto(f"{app}/new")
    check("a new page", new.inner_text("#h") == "My App /new")
    refused("a new page elsewhere", lambda: new.goto(f"{bank}/"), "no [[cdp_target]]")
    new.close()

    own = browser.new_context()
    page_of_own = own.new_page()
    page_of_own.goto(f"{app}/own")
    check("a context of its own", page_of_own.inner_text("#h") == "My App /own")
    check("its cookies", [cookie["name"] for cookie in own.cookies()] == ["sid"], own.cookies())
    own.close()

    other = playwright.chromium.connect_over_cdp(endpoint, timeout=60_000)
    theirs = other.contexts[0].pages[0]
    theirs.close()
    check("closing a tab of the user ends", theirs.is_closed())
    other.close()

    page = context.pages[0]
    check("and the tab is there for others", page.title() != "", page.url)
    page.goto(f"{app}/leaving")
    with page.expect_event("close", timeout=60_000):
        page.evaluate("setTimeout(() => document.querySelector('#redirect').click(), 50)")
    check("the tab that went away is gone", page.is_closed())
    check("no tab is left", context.pages == [], [page.url for page in context.pages])
    browser.close()

print(json.dumps({"checks": checks}))
