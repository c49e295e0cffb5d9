"""What people see when the SDKs of Stripe, OpenAI and Anthropic are refused. All is as by default, retries too.

NARROW may only GET, EXPIRED nothing. Prints one JSON line.
"""

import json
import os

import anthropic
import openai
import stripe

NARROW, EXPIRED = os.environ["NARROW"], os.environ["EXPIRED"]
MESSAGES = [{"role": "user", "content": "Where is the key?"}]
seen = {}


def refused(name: str, kind: type[Exception], call) -> None:
    try:
        call()
    except kind as error:
        assert type(error) is kind, f"{name}: {error!r}"
        seen[name] = str(error)
    else:
        raise AssertionError(f"{name}: it was not refused")


def ask_openai(key: str, **more) -> None:
    openai.OpenAI(api_key=key).chat.completions.create(model="gpt-test", messages=MESSAGES, **more)


def ask_anthropic(key: str, **more) -> None:
    anthropic.Anthropic(api_key=key).messages.create(model="claude-test", max_tokens=64, messages=MESSAGES, **more)


refused("openai", openai.PermissionDeniedError, lambda: ask_openai(NARROW))
refused("openai, streamed", openai.PermissionDeniedError, lambda: ask_openai(NARROW, stream=True))
refused("openai, expired", openai.AuthenticationError, lambda: ask_openai(EXPIRED))
refused("anthropic", anthropic.PermissionDeniedError, lambda: ask_anthropic(NARROW))
refused("anthropic, streamed", anthropic.PermissionDeniedError, lambda: ask_anthropic(NARROW, stream=True))
refused("anthropic, expired", anthropic.AuthenticationError, lambda: ask_anthropic(EXPIRED))

stripe.ca_bundle_path = os.environ["REQUESTS_CA_BUNDLE"]
refused("stripe", stripe.PermissionError, lambda: stripe.Customer.create(api_key=NARROW, email="a@example.com"))
refused("stripe, expired", stripe.AuthenticationError, lambda: stripe.Customer.list(api_key=EXPIRED))

print(json.dumps(seen))
