"""A client of the DevTools protocol that says what it is told, byte by byte, and repeats what it hears.

Argument: the WebSocket's URL. Standard input: JSON lists of texts, one a line: the parts of a message, a frame each. Standard output:
the messages that came, one a line; {"closed": …} when the WebSocket has ended.
"""

import base64
import json
import os
import socket
import struct
import sys
import threading

authority, path = sys.argv[1].removeprefix("ws://").split("/", 1)
host, port = authority.rsplit(":", 1)
stream = socket.create_connection((host, int(port)), timeout=60)
key = base64.b64encode(os.urandom(16)).decode()
stream.sendall(
    f"GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
)
reader = stream.makefile("rb")
head = []
while (line := reader.readline().strip()):
    head.append(line.decode())
if " 101 " not in f"{head[0]} ":
    print(json.dumps({"closed": head[0]}), flush=True)
    sys.exit()
stream.settimeout(None)
print(json.dumps({"open": True}), flush=True)


def send(opcode: int, is_last: bool, payload: bytes) -> None:
    length = len(payload)
    size = bytes([0x80 | length]) if length < 126 else struct.pack("!BH" if length < 65536 else "!BQ", 0x80 | (126 if length < 65536 else 127), length)
    stream.sendall(bytes([(0x80 if is_last else 0) | opcode]) + size + b"\0\0\0\0" + payload)


def say() -> None:
    for line in sys.stdin:
        parts = json.loads(line)
        for at, part in enumerate(parts):
            send(0 if at else 1, at + 1 == len(parts), part.encode())
    # Nobody says anything any more.
    os._exit(0)


threading.Thread(target=say, daemon=True).start()
message = b""
why = "without a word"
while (first := reader.read(2)):
    length = first[1] & 0x7F
    if length > 125:
        length = int.from_bytes(reader.read(2 if length == 126 else 8), "big")
    payload = reader.read(length)
    opcode = first[0] & 0x0F
    if opcode == 8:
        why = payload[2:].decode()
        break
    if opcode == 9:
        send(10, True, payload)
    if opcode in (0, 1):
        message += payload
        if first[0] & 0x80:
            print(message.decode(), flush=True)
            message = b""
print(json.dumps({"closed": why}), flush=True)
os._exit(0)
