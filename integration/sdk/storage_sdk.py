"""google-cloud-storage, unmodified, with the OAuth token that TOKEN holds (it may GET and POST), and one that has expired. It
finds the CA by REQUESTS_CA_BUNDLE. Prints one JSON line: what people see of refusals.
"""

import json
import os
import time

from google.api_core.exceptions import Forbidden, NotFound
from google.cloud import storage
from google.oauth2.credentials import Credentials

seen = {}


def check(name: str, passed: bool, detail: object = None) -> None:
    assert passed, f"{name}: {detail!r}"


def refused(name: str, call) -> None:
    started = time.monotonic()
    try:
        call()
    except Forbidden as error:
        seen[name] = error.message
    else:
        raise AssertionError(f"{name}: it was not refused")
    # Its retries go on for two minutes.
    check(name, time.monotonic() - started < 2, "it tried again")


def client(token: str) -> storage.Client:
    return storage.Client(project="test", credentials=Credentials(token=token))


bucket = client(os.environ["TOKEN"]).bucket("bucket")
data = bytes(range(256)) * 4096
bucket.blob("small.txt").upload_from_string("hello", content_type="text/plain")
# Beyond its size for one request: a resumable upload, in pieces.
blob = bucket.blob("folder/large.bin", chunk_size=256 * 1024)
blob.upload_from_string(data)
check("download", bucket.blob("small.txt").download_as_bytes() == b"hello")
check("download in pieces", bucket.blob("folder/large.bin", chunk_size=512 * 1024).download_as_bytes() == data)
names = [blob.name for blob in bucket.list_blobs()]
check("list", names == ["folder/large.bin", "small.txt"], names)
try:
    bucket.blob("absent").download_as_bytes()
except NotFound as error:
    check("the API's own errors", "No such object" in str(error), error)

refused("delete", lambda: bucket.blob("small.txt").delete())
expired = client(os.environ["EXPIRED"]).bucket("bucket")
refused("expired: list", lambda: list(expired.list_blobs()))
refused("expired: upload", lambda: expired.blob("x").upload_from_string("x"))
refused("expired: download", lambda: expired.blob("small.txt").download_as_bytes())
print(json.dumps(seen))
