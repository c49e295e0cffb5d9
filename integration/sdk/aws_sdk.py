"""boto3 and the AWS command line, unmodified, with the token as access key id. Prints one JSON line.

Nothing here knows the real keys: the signatures that these clients make are made with a secret key that is none.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import urllib.request

import boto3
import botocore
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

BUCKET = os.environ["BUCKET"]
checks = []


def check(name: str, passed: bool, detail: object = None) -> None:
    assert passed, f"{name}: {detail!r}"
    checks.append(name)


def s3(**options: object) -> object:
    # A refusal is not to be tried again.
    return boto3.client("s3", config=Config(retries={"total_max_attempts": 1}, **options))


# Bucket in the host's name and in the path; checksums in a trailer (the default) and without.
for style in ["virtual", "path"]:
    for checksums in ["when_supported", "when_required"]:
        client = s3(s3={"addressing_style": style}, request_checksum_calculation=checksums)
        key = f"dir {style}/{checksums}: (ä+b)&=~.txt"
        client.put_object(Bucket=BUCKET, Key=key, Body=b"hello", Metadata={"agent": "a  b"}, ContentType="text/x-agent")
        found = client.get_object(Bucket=BUCKET, Key=key)
        check(f"put, get ({style}, {checksums})", found["Body"].read() == b"hello", found)
        check("content type", found["ContentType"] == "text/x-agent", found)
        part = client.get_object(Bucket=BUCKET, Key=key, Range="bytes=1-3")
        check("range", part["Body"].read() == b"ell", part)
        listed = client.list_objects_v2(Bucket=BUCKET, Prefix=f"dir {style}/")
        check("list", [entry["Key"] for entry in listed["Contents"]][-1] == key, listed)
        folders = client.list_objects_v2(Bucket=BUCKET, Delimiter="/")
        check("folders", f"dir {style}/" in [entry["Prefix"] for entry in folders["CommonPrefixes"]], folders)
        head = client.head_object(Bucket=BUCKET, Key=key)
        check("head", head["ContentLength"] == 5 and head["Metadata"] == {"agent": "a  b"}, head)
        client.delete_object(Bucket=BUCKET, Key=key)
        try:
            client.get_object(Bucket=BUCKET, Key=key)
            check("deleted", False, key)
        except client.exceptions.NoSuchKey:
            pass

client = s3()
big = os.urandom(12 * 1024 * 1024)
parts = TransferConfig(multipart_threshold=5 * 1024 * 1024, multipart_chunksize=5 * 1024 * 1024, max_concurrency=4)
client.upload_fileobj(io.BytesIO(big), BUCKET, "big", Config=parts)
back = io.BytesIO()
client.download_fileobj(BUCKET, "big", back, Config=parts)
check("multipart", back.getvalue() == big)
client.put_object(Bucket=BUCKET, Key="stream", Body=io.BytesIO(big))
check("stream", client.get_object(Bucket=BUCKET, Key="stream")["Body"].read() == big)


def fetch(url: str, method: str = "GET", body: "bytes | None" = None) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, data=body, method=method)) as answer:
        return answer.read()


# A URL is good for who has nothing else, behind the proxy; urllib adds a content type that nobody signed.
signing = s3(signature_version="s3v4")
url = signing.generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": "pre signed"}, ExpiresIn=600)
fetch(url, "PUT", b"by URL")
url = signing.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "pre signed"})
check("presigned", fetch(url) == b"by URL")

# These sign the hash of the body, and do not say it.
who = boto3.client("sts").get_caller_identity()
check("STS", who["Account"] == "123456789012", who)
table = boto3.resource("dynamodb").Table("agents")
table.put_item(Item={"id": "1", "note": "ä" * 100_000})
check("DynamoDB", table.get_item(Key={"id": "1"})["Item"]["note"] == "ä" * 100_000)

# What is not allowed is this client's own error; another bucket is, by the gateway and by nobody without one.
try:
    s3(s3={"addressing_style": "path"}).put_object(Bucket="other", Key="a", Body=b"")
    refused = None
except ClientError as error:
    refused = error.response["ResponseMetadata"]["HTTPStatusCode"]


def aws(*arguments: str) -> str:
    command = [os.path.join(os.path.dirname(sys.executable), "aws"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"aws {arguments}: {done.stdout}{done.stderr}"
    return done.stdout


with tempfile.TemporaryDirectory() as folder:
    local, back = f"{folder}/big", f"{folder}/back"
    with open(local, "wb") as file:
        file.write(big)
    aws("s3", "cp", "--no-progress", local, f"s3://{BUCKET}/cli/big")
    check("aws s3 ls", "big" in aws("s3", "ls", f"s3://{BUCKET}/cli/"))
    aws("s3", "cp", "--no-progress", f"s3://{BUCKET}/cli/big", back)
    with open(back, "rb") as file:
        check("aws s3 cp", file.read() == big)
    check("aws s3 presign", fetch(aws("s3", "presign", f"s3://{BUCKET}/pre signed").strip()) == b"by URL")
    identity = aws("sts", "get-caller-identity", "--output", "json")
    check("aws sts get-caller-identity", json.loads(identity)["UserId"] == "AIDAEXAMPLE", identity)
    version = aws("--version").split()[0]

versions = f"boto3/{boto3.__version__} botocore/{botocore.__version__} {version}"
print(json.dumps({"sdk": "aws", "version": versions, "checks": checks, "refused": refused}))
