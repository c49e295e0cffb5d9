"""The three parties of a sign-in by OAuth 2.0 with PKCE: a command-line program, a provider, and a user with a browser.

    oauth.py provider FOLDER              serves on a port of 127.0.0.1, which it writes to FOLDER/provider
    oauth.py browser FOLDER URL           the user: signs in with a headless Chromium, while another page tries to get in between
    oauth.py cli AUTHORIZE TOKEN PORT [MODE]   the program: opens AUTHORIZE, waits on PORT, asks TOKEN; MODE is "query" or "form"
"""

import base64
import hashlib
import html
import json
import os
import secrets
import sys
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

PASSWORD = "correct horse"
# What would let another page in, if the port were anybody's: each knows even the state, but for the last.
ATTACK = """<!doctype html><title>attack</title><script>
const callback = CALLBACK, right = callback + '?code=evil&state=' + STATE;
const wait = (element, url) => new Promise(done => {
  element.onload = element.onerror = () => done();
  element.src = url;
  document.body.append(element);
  setTimeout(done, 5000);
});
(async () => {
  await new Promise(done => addEventListener('load', done));
  await fetch(right, {mode: 'no-cors', credentials: 'include'}).catch(() => {});
  await fetch(right, {mode: 'cors'}).catch(() => {});
  await fetch(callback, {mode: 'no-cors', method: 'POST', body: new URLSearchParams({code: 'evil', state: STATE})}).catch(() => {});
  await wait(new Image(), right);
  await wait(document.createElement('iframe'), right);
  window.done = true;
})();
</script><body></body>"""


def write(folder: str, name: str, text: str) -> None:
    """Whole, or not at all."""
    path = os.path.join(folder, name)
    with open(path + ".new", "w") as file:
        file.write(text)
    os.rename(path + ".new", path)


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        pass

    def form(self) -> dict[str, str]:
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        return dict(urllib.parse.parse_qsl(body))

    def answer(self, status: int, text: str = "", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


def provider(folder: str) -> None:
    codes: dict[str, str] = {}

    class Provider(Quiet):
        def do_GET(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(url.query))
            if url.path == "/attack":
                page = ATTACK.replace("CALLBACK", json.dumps(query["callback"])).replace("STATE", json.dumps(query["state"]))
                self.answer(200, page, **{"content-type": "text/html"})
                return
            if url.path != "/authorize":
                self.answer(404)
                return
            hidden = "".join(f'<input type=hidden name="{html.escape(k)}" value="{html.escape(v)}">' for k, v in query.items())
            page = f"<form method=post action=/login>{hidden}<input id=user name=user><input id=password name=password><button>Go</button></form>"
            self.answer(200, page, **{"content-type": "text/html"})

        def do_POST(self) -> None:
            form = self.form()
            if form.get("password") != PASSWORD or form.get("code_challenge_method") != "S256":
                self.answer(403, "no")
                return
            code = secrets.token_hex(8)
            codes[code] = form["code_challenge"]
            write(folder, "codes.json", json.dumps(codes))
            back = {"code": code, "state": form["state"]}
            if form.get("response_mode") == "form_post":
                hidden = "".join(f'<input type=hidden name={k} value="{html.escape(v)}">' for k, v in back.items())
                page = f'<form method=post action="{html.escape(form["redirect_uri"])}">{hidden}</form><script>document.forms[0].submit()</script>'
                self.answer(200, page, **{"content-type": "text/html"})
            else:
                self.answer(303, location=f'{form["redirect_uri"]}?{urllib.parse.urlencode(back)}')

    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    write(folder, "provider", str(server.server_port))
    server.serve_forever()


def browser(folder: str, url: str) -> None:
    from shutil import which

    from playwright.sync_api import sync_playwright

    seen: dict[str, object] = {}
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))
    redirect = query["redirect_uri"]
    site = urllib.parse.urlsplit(url)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=which("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"],
        )
        context = chromium.new_context()
        context.set_default_timeout(60_000)
        # The user is signed in at another server of this machine; cookies do not mind the port.
        context.add_cookies([{"name": "session", "value": "of-another-server", "url": "http://localhost:1/"}])
        page = context.new_page()
        page.goto(url)

        attack = urllib.parse.urlencode({"callback": redirect, "state": query["state"]})
        hostile = context.new_page()
        hostile.goto(f"http://localhost:{site.port}/attack?{attack}")
        hostile.wait_for_function("window.done")
        forged = hostile.goto(f"{redirect}?code=evil&state=of-somebody-else")
        seen["forged"] = [forged.status, hostile.inner_text("body")]

        page.fill("#user", "me")
        page.fill("#password", PASSWORD)
        page.click("button")
        page.wait_for_selector("#done")
        seen["title"], seen["text"], seen["url"] = page.title(), page.inner_text("body"), page.url
        seen["cookies"] = sorted(cookie["name"] for cookie in context.cookies())
        try:
            again = hostile.goto(f"{redirect}?code=evil&state={query['state']}")
            seen["again"] = again.status
        except Exception as error:  # The port may be closed already.
            seen["again"] = "closed" if "ERR_CONNECTION" in str(error) else str(error)
        chromium.close()
    write(folder, "browser.json", json.dumps(seen))


def cli(authorize: str, token: str, port: int, mode: str) -> None:
    import webbrowser

    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(16)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    seen: dict[str, object] = {"requests": [], "cookies": []}

    class Callback(Quiet):
        def come(self, answer: dict[str, str]) -> None:
            seen["requests"].append(f"{self.command} {urllib.parse.urlsplit(self.path).path}")
            seen["cookies"] += self.headers.get_all("cookie", [])
            if urllib.parse.urlsplit(self.path).path == "/success":
                page = "<title>safe</title><p id=done>Signed in.</p><script>document.title = 'script ran'</script>"
                self.answer(200, page, **{"content-type": "text/html", "set-cookie": "evil=1; path=/"})
                return
            assert answer["state"] == state, answer
            seen["code"] = answer["code"]
            self.answer(302, location="/success")

        def do_GET(self) -> None:
            self.come(dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query)))

        def do_POST(self) -> None:
            self.come(self.form())

    server = HTTPServer(("127.0.0.1", port), Callback)
    server.timeout = 1
    query = {
        "response_type": "code",
        "client_id": "cli",
        "redirect_uri": f"http://localhost:{port}/callback",
        "state": state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    if mode == "form":
        query["response_mode"] = "form_post"
    seen["opened"] = webbrowser.open(f"{authorize}?{urllib.parse.urlencode(query)}")
    deadline = time.monotonic() + 120
    while not any(request.endswith("/success") for request in seen["requests"]):
        assert seen["opened"] and time.monotonic() < deadline, seen
        server.handle_request()
    form = urllib.parse.urlencode({"grant_type": "authorization_code", "code": seen["code"], "code_verifier": verifier})
    with urllib.request.urlopen(urllib.request.Request(token, data=form.encode())) as answer:
        seen["token"] = answer.status
    print(json.dumps(seen))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["provider", folder]:
            provider(folder)
        case ["browser", folder, url]:
            browser(folder, url)
        case ["cli", authorize, token, port, *mode]:
            cli(authorize, token, int(port), *(mode or ["query"]))
        case _:
            sys.exit(__doc__)
