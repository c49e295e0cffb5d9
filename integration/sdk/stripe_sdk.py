"""The Stripe SDK, unmodified, with the token that STRIPE_API_KEY holds. Prints one JSON line.

The SDK reads no variable for its CAs: every one of its HTTP clients passes `stripe.ca_bundle_path`, by default a file of
the package itself, so that REQUESTS_CA_BUNDLE and SSL_CERT_FILE have no effect. The setting is public, and a program
behind any TLS proxy has to make it; the first check here proves that it is needed.
"""

import asyncio
import json
import os

import stripe

stripe.api_key = os.environ["STRIPE_API_KEY"]
stripe.max_network_retries = 0
checks = []


def check(name: str, passed: bool, detail: object = None) -> None:
    assert passed, f"{name}: {detail!r}"
    checks.append(name)


try:
    stripe.Customer.list()
    check("its own CA file is all it trusts", False, "it trusted the proxy without being told")
except stripe.APIConnectionError as error:
    check("its own CA file is all it trusts", "certificate verify failed" in str(error).lower(), error)
stripe.ca_bundle_path = os.environ["REQUESTS_CA_BUNDLE"]
stripe.default_http_client = None

customers = stripe.Customer.list(limit=3)
check("list customers", customers.data[0].id == "cus_test", customers)
charges = stripe.Charge.list()
check("list charges", charges.data[0].amount == 1999, charges)
client = stripe.StripeClient(os.environ["STRIPE_API_KEY"])
check("StripeClient", client.v1.customers.list().data[0].email == "agent@example.com")


async def asynchronous() -> None:
    customers = await stripe.Customer.list_async()
    check("list customers, async", customers.data[0].id == "cus_test", customers)


asyncio.run(asynchronous())

# What the token may do decides who answers: the API, or the proxy. The proxy's 403 is text, as the SDK asks for no JSON;
# the SDK shows that text in its error.
try:
    customer = stripe.Customer.create(email="agent@example.com")
    check("create a customer", customer.id == "cus_test", customer)
    posted = 200
except stripe.StripeError as error:
    check("a refusal says why", "Unauthorized: method not allowed" in str(error), error)
    posted = error.http_status

print(json.dumps({"sdk": "stripe", "version": stripe.VERSION, "checks": checks, "post": posted}))
