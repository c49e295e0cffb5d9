"""The OpenAI SDK, unmodified, with the token that OPENAI_API_KEY holds. It finds the CA by SSL_CERT_FILE.

Prints one JSON line.
"""

import asyncio
import json

import openai

SAID = "The key stays outside."
QUESTION = {"model": "gpt-test", "messages": [{"role": "user", "content": "Where is the key?"}]}
checks = []


def check(name: str, passed: bool, detail: object = None) -> None:
    assert passed, f"{name}: {detail!r}"
    checks.append(name)


client = openai.OpenAI(max_retries=0)
check("default base URL", str(client.base_url) == "https://api.openai.com/v1/", client.base_url)
check("list models", [model.id for model in client.models.list()] == ["gpt-test"])
answer = client.chat.completions.create(**QUESTION)
check("completion", answer.choices[0].message.content == SAID, answer)
with client.chat.completions.create(stream=True, **QUESTION) as stream:
    words = [chunk.choices[0].delta.content or "" for chunk in stream]
check("completion, streamed", "".join(words) == SAID and len(words) > 4, words)


async def asynchronous() -> None:
    async with openai.AsyncOpenAI(max_retries=0) as client:
        answer = await client.chat.completions.create(**QUESTION)
        check("completion, async", answer.choices[0].message.content == SAID, answer)
        words = []
        async for chunk in await client.chat.completions.create(stream=True, **QUESTION):
            words.append(chunk.choices[0].delta.content or "")
        check("completion, async, streamed", "".join(words) == SAID and len(words) > 4, words)


asyncio.run(asynchronous())
print(json.dumps({"sdk": "openai", "version": openai.__version__, "checks": checks}))
