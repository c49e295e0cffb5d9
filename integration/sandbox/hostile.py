"""What a hostile root in a sandbox tries, and what the host sees of it, for the tests of sandboxes. Results are lines of JSON.

hostile.py attempts              reads one attempt a line, makes them all at once, and prints what each was answered
hostile.py first TO PORT FILE    TCP and UDP to TO, at once and for half a second; what came of it goes to FILE
hostile.py knock TO PORT FILE    the same, for ever; how often goes to FILE
hostile.py listen PORT FILE      TCP and UDP; what arrives goes to FILE
hostile.py capture BRIDGE ADDRESS MARK
                                 on the host, until its input ends: packets of the sandbox that are anywhere but on its bridge,
                                 and what is sent to it there
"""

import concurrent.futures
import json
import os
import select
import socket
import struct
import sys
import threading
import time

TIMEOUT = 1.5
# What the host itself sends, to see that it would be seen.
CONTROL = b"hostile control"


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def target(address, port):
    return socket.getaddrinfo(address, port, family(address))[0][4]


def tcp(to, port, tag):
    with socket.socket(family(to), socket.SOCK_STREAM) as s:
        s.settimeout(TIMEOUT)
        s.connect(target(to, port))
        s.sendall(tag.encode() + b"\n")
        return s.recv(200).decode(errors="replace")


def udp(to, port, tag):
    with socket.socket(family(to), socket.SOCK_DGRAM) as s:
        s.settimeout(TIMEOUT)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.sendto(tag.encode(), target(to, port))
        return s.recv(200).decode(errors="replace")


def http(to, port, tag):
    """As a browser spells it: the address is whatever the resolver makes of it."""
    with socket.create_connection((to, port), TIMEOUT) as s:
        s.sendall(f"GET /latest/meta-data/{tag} HTTP/1.1\r\nhost: {to}\r\n\r\n".encode())
        return s.recv(200).decode(errors="replace")


def ping(to, port, tag, kind="dgram"):
    v6 = ":" in to
    proto = socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP
    with socket.socket(family(to), socket.SOCK_RAW if kind == "raw" else socket.SOCK_DGRAM, proto) as s:
        s.settimeout(TIMEOUT)
        body = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, 7, 1) + tag.encode()
        body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
        s.sendto(body, target(to, 0))
        return s.recv(200).hex()


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def raw(to, port, tag):
    """A UDP packet with a header made by hand."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
        data = struct.pack("!HHHH", 4000, port, 8 + len(tag), 0) + tag.encode()
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(data), 1, 0, 64, 17, 0, b"\0" * 4, socket.inet_aton(to))
        s.sendto(head + data, (to, 0))
        return "sent"


def packet(to, port, tag):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
        s.bind(("eth0", 0))
        s.send(b"\xff" * 6 + s.getsockname()[4] + b"\x08\x00" + tag.encode())
        return "sent"


def question(name, kind):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


def reply(answer):
    """The code, and the number of answers."""
    if len(answer) < 12:
        return None
    _, flags, _, answers, _, _ = struct.unpack("!HHHHHH", answer[:12])
    return f"rcode {flags & 15} answers {answers}"


def dns(to, port, tag, name, kind, stream=False):
    query = question(name, kind)
    with socket.socket(family(to), socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) as s:
        s.settimeout(TIMEOUT)
        s.connect(target(to, port))
        s.sendall(struct.pack("!H", len(query)) + query if stream else query)
        answer = s.recv(2000)
        return reply(answer[2:] if stream else answer)


def attempts():
    kinds = {"tcp": tcp, "udp": udp, "http": http, "ping": ping, "raw": raw, "packet": packet, "dns": dns}

    def attempt(one):
        arguments = dict(one)
        answer = error = None
        try:
            answer = kinds[arguments.pop("do")](**arguments)
        except OSError as failure:
            error = str(failure)
        return {"tag": one["tag"], "answer": answer, "error": error}

    all_of_them = [json.loads(line) for line in sys.stdin]
    with concurrent.futures.ThreadPoolExecutor(48) as pool:
        for result in pool.map(attempt, all_of_them):
            print(json.dumps(result))


def knock_once(to, port, tag, wait):
    """Whether anything but an immediate end came back, over TCP or UDP."""
    answers = []
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            with socket.socket(socket.AF_INET, kind) as s:
                s.settimeout(wait)
                s.connect((to, port))
                s.sendall(tag)
                answers.append(s.recv(200).decode(errors="replace"))
        except OSError:
            pass
    return [answer for answer in answers if answer]


def knock(to, port, file, seconds):
    count, got, end = 0, [], time.monotonic() + seconds
    while time.monotonic() < end:
        got += knock_once(to, port, b"knock", 0.05)
        count += 1
        with open(file + ".new", "w") as out:
            json.dump({"count": count, "got": got[:10]}, out)
        os.rename(file + ".new", file)


def listen(port, file):
    def heard(what):
        with open(file, "a") as out:
            out.write(what + "\n")

    stream = socket.create_server(("0.0.0.0", port), backlog=64)
    packets = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    packets.bind(("0.0.0.0", port))
    heard("listening")
    while True:
        for ready in select.select([stream, packets], [], [])[0]:
            if ready is packets:
                data, sender = packets.recvfrom(2000)
                heard(f"udp {sender[0]} {data!r}")
            else:
                connection, sender = stream.accept()
                heard(f"tcp {sender[0]}")
                connection.close()


def capture(bridge, address, mark):
    own = {bridge, *os.listdir(f"/sys/class/net/{bridge}/brif")}
    ip, seen = socket.inet_aton(address), set()
    s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    s.settimeout(0.2)
    print(json.dumps({"ready": True}), flush=True)
    while True:
        try:
            data, (interface, protocol, kind, *_) = s.recvfrom(65536)
        except TimeoutError:
            # All that was queued is read.
            if ended.is_set():
                break
            continue
        if protocol == 0x0800 and len(data) >= 20:
            source, to, proto, ports = data[12:16], data[16:20], data[9], data[(data[0] & 15) * 4 :][:4]
            concerns = ip in (source, to)
            about = [socket.inet_ntoa(source), socket.inet_ntoa(to)]
        elif protocol == 0x86DD and len(data) >= 40:
            proto, ports, concerns = data[6], data[40:44], False
            about = [socket.inet_ntop(socket.AF_INET6, data[at : at + 16]) for at in (8, 24)]
        else:
            continue
        sport, dport = struct.unpack("!HH", ports) if proto in (6, 17) and len(ports) == 4 else (0, 0)
        if CONTROL in data:
            seen.add(("control", interface, proto, "", "", 0, 0))
        elif interface not in own:
            if concerns or mark.encode() in data:
                seen.add(("elsewhere", interface, proto, *about, sport, dport))
        elif interface == bridge and kind == socket.PACKET_OUTGOING and protocol == 0x0800 and concerns:
            seen.add(("to the sandbox", bridge, proto, "", "", 0 if proto == 6 else sport, 0))
        elif interface == bridge and kind != socket.PACKET_OUTGOING and concerns:
            seen.add(("from the sandbox", bridge, proto, "", "", 0, 0))
    for one in sorted(seen):
        print(json.dumps(dict(zip(("where", "interface", "proto", "source", "to", "sport", "dport"), one))))


if sys.argv[1] == "attempts":
    attempts()
elif sys.argv[1] == "first":
    knock(sys.argv[2], int(sys.argv[3]), sys.argv[4], 0.5)
elif sys.argv[1] == "knock":
    knock(sys.argv[2], int(sys.argv[3]), sys.argv[4], 1e9)
elif sys.argv[1] == "listen":
    listen(int(sys.argv[2]), sys.argv[3])
else:
    capture(*sys.argv[2:5])
