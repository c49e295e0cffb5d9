"""The Anthropic SDK, unmodified, with the token that ANTHROPIC_API_KEY holds. It finds the CA by SSL_CERT_FILE.

It sends the token as `x-api-key`. Prints one JSON line.
"""

import asyncio
import json

import anthropic

SAID = "The key stays outside."
QUESTION = {
    "model": "claude-test",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "Where is the key?"}],
}
checks = []


def check(name: str, passed: bool, detail: object = None) -> None:
    assert passed, f"{name}: {detail!r}"
    checks.append(name)


client = anthropic.Anthropic(max_retries=0)
check("default base URL", str(client.base_url).rstrip("/") == "https://api.anthropic.com", client.base_url)
answer = client.messages.create(**QUESTION)
check("message", answer.content[0].text == SAID, answer)
with client.messages.stream(**QUESTION) as stream:
    words = list(stream.text_stream)
    final = stream.get_final_message()
check("message, streamed", "".join(words) == SAID and len(words) == 4, words)
check("its end", final.stop_reason == "end_turn", final)


async def asynchronous() -> None:
    async with anthropic.AsyncAnthropic(max_retries=0) as client:
        answer = await client.messages.create(**QUESTION)
        check("message, async", answer.content[0].text == SAID, answer)
        async with client.messages.stream(**QUESTION) as stream:
            words = [word async for word in stream.text_stream]
        check("message, async, streamed", "".join(words) == SAID and len(words) == 4, words)


asyncio.run(asynchronous())
print(json.dumps({"sdk": "anthropic", "version": anthropic.__version__, "checks": checks}))
