"""Network attempts, services and a capture, for the tests of the isolation. Results are lines of JSON.

probe.py attempts   reads one attempt a line, makes them all at once, and prints what each was answered
probe.py serve NAME ADDRESS PORT...
                    TCP and UDP services that say who they are and what arrives; where there is an eth0, also its packets
"""

import concurrent.futures
import json
import socket
import struct
import sys
import threading

TIMEOUT = 0.4
lock = threading.Lock()


def say(**what):
    with lock:
        print(json.dumps(what), flush=True)


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def target(address, port):
    return socket.getaddrinfo(address, port, family(address), flags=socket.AI_NUMERICHOST)[0][4]


def tcp(to, port, tag):
    with socket.socket(family(to), socket.SOCK_STREAM) as s:
        s.settimeout(TIMEOUT)
        s.connect(target(to, port))
        s.sendall(tag.encode() + b"\n")
        return s.recv(200).decode()


def udp(to, port, tag):
    with socket.socket(family(to), socket.SOCK_DGRAM) as s:
        s.settimeout(TIMEOUT)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.sendto(tag.encode(), target(to, port))
        return s.recv(200).decode()


def ping(to, port, tag):
    kind, proto = (128, socket.IPPROTO_ICMPV6) if ":" in to else (8, socket.IPPROTO_ICMP)
    with socket.socket(family(to), socket.SOCK_RAW, proto) as s:
        s.settimeout(TIMEOUT)
        body = struct.pack("!BBHHH", kind, 0, 0, 7, 1) + tag.encode()
        if kind == 8:
            body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
        s.sendto(body, target(to, 0))
        while True:
            answer, sender = s.recvfrom(2000)
            if tag.encode() in answer and sender[0] == to and answer[0] != 128:
                return "echo"


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def neighbour_mac():
    with open("/proc/net/arp") as table:
        return bytes.fromhex(table.readlines()[1].split()[3].replace(":", ""))


def frame(to, port, tag, source, proto=17, fragment=0, vlan=False):
    """A frame made by hand: any source, any protocol, past the sandbox's own network stack."""
    if ":" in to:
        data = struct.pack("!HHHH", 4000, port, 8 + len(tag), 0) + tag.encode()
        pseudo = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, to)
        pseudo += struct.pack("!II", len(data), 17)
        data = data[:6] + struct.pack("!H", checksum(pseudo + data)) + data[8:]
        packet = struct.pack("!IHBB", 6 << 28, len(data), 17, 64)
        packet += socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, to) + data
        ethertype = 0x86DD
    else:
        data = struct.pack("!HHHH", 4000, port, 8 + len(tag), 0) + tag.encode() if proto == 17 else tag.encode()
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 1, fragment, 64, proto, 0)
        head += socket.inet_aton(source) + socket.inet_aton(to)
        packet = head[:10] + struct.pack("!H", checksum(head)) + head[12:] + data
        ethertype = 0x0800
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
        s.bind(("eth0", 0))
        tagged = struct.pack("!HH", 0x8100, 0) if vlan else b""
        s.send(neighbour_mac() + s.getsockname()[4] + tagged + struct.pack("!H", ethertype) + packet)
    return "sent"


def attempts():
    kinds = {"tcp": tcp, "udp": udp, "ping": ping, "frame": frame}

    def attempt(one):
        arguments = dict(one)
        try:
            answer = kinds[arguments.pop("kind")](**arguments)
        except OSError as error:
            answer = None
            one = {**one, "error": str(error)}
        say(tag=one["tag"], answer=answer, error=one.get("error"))

    all_of_them = [json.loads(line) for line in sys.stdin]
    with concurrent.futures.ThreadPoolExecutor(len(all_of_them)) as pool:
        list(pool.map(attempt, all_of_them))


def serve(name, address, ports):
    def accept(listener):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(1)
                try:
                    say(arrived=connection.recv(200).decode(errors="replace").strip(), at=name)
                    connection.sendall(name.encode())
                except OSError:
                    pass

    def answer(socket_):
        while True:
            data, sender = socket_.recvfrom(2000)
            say(arrived=data.decode(errors="replace"), at=name)
            socket_.sendto(name.encode(), sender)

    # Two sockets, not one for both: the kernel gives IPv4 multicast to those of IPv4 alone.
    for port, own in ((port, own) for port in ports for own in ((address, "0.0.0.0") if address == "::" else (address,))):
        stream = socket.create_server((own, port), family=family(own), backlog=64)
        threading.Thread(target=accept, args=(stream,), daemon=True).start()
        packets = socket.socket(family(own), socket.SOCK_DGRAM)
        if own == "::":
            packets.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        packets.bind((own, port))
        threading.Thread(target=answer, args=(packets,), daemon=True).start()
    say(ready=name)
    if "eth0" not in dict(map(reversed, socket.if_nameindex())):
        threading.Event().wait()
    capture = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    capture.bind(("eth0", 3))
    say(capturing=name)
    while True:
        packet, (_, protocol, kind, *_) = capture.recvfrom(65536)
        # Neighbour discovery goes on all the time: ARP, and of ICMPv6 all but echo requests.
        chatter = protocol == 0x86DD and packet[6] in (0, 58) and packet[40] != 128
        if kind != socket.PACKET_OUTGOING and protocol in (0x0800, 0x86DD) and not chatter:
            say(packet=packet[:200].hex(), at=name)


if sys.argv[1] == "attempts":
    attempts()
else:
    serve(sys.argv[2], sys.argv[3], [int(port) for port in sys.argv[4:]])
