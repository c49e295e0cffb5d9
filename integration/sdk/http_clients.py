"""`requests` and `httpx`, unmodified, with the token that TOKEN holds: it may GET and POST. They find the CA by
REQUESTS_CA_BUNDLE and SSL_CERT_FILE. Prints one JSON line: what people see of a refusal.
"""

import asyncio
import json
import os

import httpx
import requests

URL = "https://api.example.com"
BEARER = {"authorization": f"Bearer {os.environ['TOKEN']}"}
seen = {}


def check(name: str, passed: bool, detail: object = None) -> None:
    assert passed, f"{name}: {detail!r}"


def refusal(name: str, status: int, body: dict, error: Exception) -> None:
    check(name, status == 403 and body["error"]["code"] == "caveat_method", body)
    check(name, "403" in str(error), error)
    seen[name] = body["error"]["message"]


with requests.Session() as session:
    session.headers.update(BEARER)
    got = session.get(f"{URL}/get", params={"a": "b c"}).json()
    check("requests: get", got["path"] == "/get?a=b+c", got)
    posted = session.post(f"{URL}/post", json={"hello": "world"}).json()
    check("requests: post", posted["body_length"] == 18 and posted["method"] == "POST", posted)
    with session.get(f"{URL}/sse", params={"n": 5, "ms": 5}, stream=True) as answer:
        lines = [line for line in answer.iter_lines(decode_unicode=True) if line.startswith("data:")]
        check("requests: streaming", len(lines) == 5, lines)
    upload = session.post(f"{URL}/post", data=(bytes([65]) * 1000 for _ in range(300))).json()
    check("requests: chunked upload", upload["body_length"] == 300_000, upload)
    answer = session.delete(f"{URL}/get")
    try:
        answer.raise_for_status()
    except requests.HTTPError as error:
        refusal("requests", answer.status_code, answer.json(), error)
basic = requests.get(f"{URL}/get", auth=("anyone", os.environ["TOKEN"])).json()
check("requests: basic", "acm_" not in json.dumps(basic), basic)

with httpx.Client(headers=BEARER) as client:
    got = client.get(f"{URL}/get", params={"a": "b"}).json()
    check("httpx: get", got["path"] == "/get?a=b", got)
    posted = client.post(f"{URL}/post", json={"hello": "world"}).json()
    check("httpx: post", posted["method"] == "POST" and posted["body_length"] > 10, posted)
    with client.stream("GET", f"{URL}/sse", params={"n": 5, "ms": 5}) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data:")]
        check("httpx: streaming", len(lines) == 5, lines)
    answer = client.delete(f"{URL}/get")
    try:
        answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        refusal("httpx", answer.status_code, answer.json(), error)


async def asynchronous() -> None:
    async with httpx.AsyncClient(headers=BEARER) as client:
        answers = await asyncio.gather(*(client.get(f"{URL}/get/{number}") for number in range(20)))
        paths = {answer.json()["path"] for answer in answers}
        check("httpx: async", paths == {f"/get/{number}" for number in range(20)}, paths)


asyncio.run(asynchronous())
print(json.dumps(seen))
