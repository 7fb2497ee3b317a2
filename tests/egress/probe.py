"""The probe: what is tried from inside the sandbox, as root, and what is seen there.

Reads a JSON line {"ops": [...]} and writes a JSON line with a result for each, until its input
ends; the ops of a line run at the same time. Needs nothing but Python. Every result has "saw", a word or two:

  answered    bytes came          closed      an end or a reset before any byte came
  silent      connected, no more  refused     a reset, or an ICMP error, instead of a connection
  no answer   to a packet         no network  there is none in this sandbox
"""

import base64
import concurrent.futures
import errno
import fcntl
import json
import os
import resource
import select
import socket
import ssl
import struct
import sys
import threading
import time

INTERFACE = "eth0"
GATEWAY = "10.0.2.2"
ADDRESS = "10.0.2.15"
NETMASK = "255.255.255.0"
GUEST_MAC = bytes.fromhex("024855544301")
GATEWAY_MAC = bytes.fromhex("024855544302")
SIOCADDRT, SIOCSIFADDR, SIOCSIFNETMASK = 0x890B, 0x8916, 0x891C
PACKET_OUTGOING = 4
CODES = {0: "NODATA", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
NO_NETWORK = {errno.ENETUNREACH, errno.ENETDOWN, errno.ENODEV, errno.EADDRNOTAVAIL}
REFUSED = {errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.EACCES, errno.EPERM}

held = {}
packet_lock = threading.Lock()


def word(error):
    if isinstance(error, TimeoutError) or error.errno in (errno.ETIMEDOUT, errno.EAGAIN):
        return "no answer"
    if error.errno in NO_NETWORK:
        return "no network"
    return "refused" if error.errno in REFUSED else f"error {errno.errorcode.get(error.errno, error)}"


# --- DNS -----------------------------------------------------------------------------------------


def encode_query(number, name, kind):
    """With EDNS. `name` may hold any character up to 255; a dot in a label is written as \\x00."""
    labels = [label.encode("latin-1") for label in name.removesuffix(".").split(".")]
    encoded = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return (struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 1) + encoded + struct.pack("!HH", kind, 1) +
            b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0))


def skip_name(message, at):
    while message[at]:
        if message[at] >= 0xc0:
            return at + 2
        at += 1 + message[at]
    return at + 1


def read_answer(message):
    """(what was seen, the address or None, the extended error or None)"""
    try:
        _, flags, questions, answers, authorities, additionals = struct.unpack("!HHHHHH", message[:12])
        at, address, extended = 12, None, None
        for _ in range(questions):
            at = skip_name(message, at) + 4
        for _ in range(answers + authorities + additionals):
            at = skip_name(message, at)
            kind, _, time_or_flags, size = struct.unpack("!HHIH", message[at:at + 10])
            data = message[at + 10:at + 10 + size]
            at += 10 + size
            if kind == 1:
                address = socket.inet_ntoa(data)
            if kind == 41 and data[:2] == b"\0\x0f":
                extended = int.from_bytes(data[4:6], "big")
        return ("ADDRESS" if address else CODES.get(flags & 15, f"RCODE {flags & 15}")), address, extended
    except (IndexError, struct.error):
        return "a broken answer", None, None


def ask(name, kind=1, server=GATEWAY, wait=3, over_tcp=False):
    query = encode_query(7, name, kind)
    try:
        if over_tcp:
            with socket.create_connection((server, 53), wait) as stream:
                stream.sendall(struct.pack("!H", len(query)) + query)
                answer = stream.recv(4096)[2:]
                return read_answer(answer) if answer else ("closed", None, None)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            link.settimeout(wait)
            link.connect((server, 53))
            link.send(query)
            return read_answer(link.recv(4096))
    except OSError as error:
        return word(error), None, None


def dns(op):
    saw, address, extended = ask(op["name"], op.get("type", 1), op.get("server", GATEWAY), op["wait"], op.get("tcp", False))
    return {"saw": saw, "address": address, "extended": extended}


def count(counts, key):
    counts[str(key)] = counts.get(str(key), 0) + 1


def dns_many(op):
    """Many questions on one socket: [[name, type], ...]."""
    saw, extended, addresses = {}, {}, {}
    waiting, questions = {}, list(enumerate(op["questions"]))[::-1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        try:
            link.connect((op.get("server", GATEWAY), 53))
        except OSError as error:
            return {"saw": {word(error): len(questions)}, "extended": {}, "addresses": {}}
        while questions or waiting:
            while questions and len(waiting) < 32:
                number, (name, kind) = questions.pop()
                waiting[number & 0xffff] = name
                link.send(encode_query(number & 0xffff, name, kind))
            if not select.select([link], [], [], op["wait"])[0]:
                for _ in waiting:
                    count(saw, "no answer")
                waiting.clear()
                continue
            try:
                answer = link.recv(4096)
            except OSError as error:
                count(saw, word(error))
                waiting.clear()
                continue
            name = waiting.pop(int.from_bytes(answer[:2], "big"), None)
            kind, address, error = read_answer(answer)
            if name is None:
                kind = "an answer to no question"
            count(saw, kind)
            if error is not None:
                count(extended, error)
            if address and op.get("keep"):
                addresses[name] = address
            elif address:
                count(addresses, address)
    return {"saw": saw, "extended": extended, "addresses": addresses}


# --- TCP and UDP ---------------------------------------------------------------------------------


def find(op):
    """The address of an op: given, or looked up. Raises LookupError with what was seen."""
    if "to" in op:
        return tuple(op["to"])
    saw, address, _ = ask(op["name"], wait=op["wait"])
    if not address:
        raise LookupError(saw)
    return address, op["port"]


def connect(op):
    address = find(op)
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    link = socket.socket(family, socket.SOCK_STREAM)
    try:
        link.settimeout(op["wait"])
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.connect(address)
    except BaseException:
        link.close()
        raise
    return link


def receive(link, wanted, wait):
    """Reads until `wanted` bytes are there: (bytes, how it ended)."""
    data, end = b"", time.monotonic() + wait
    try:
        while len(data) < wanted:
            link.settimeout(max(0.01, end - time.monotonic()))
            more = link.recv(65536)
            if not more:
                return data, "end"
            data += more
    except OSError as error:
        return data, "reset" if error.errno == errno.ECONNRESET else "wait"
    return data, "open"


def described(data, end):
    return {"saw": "answered" if data else "silent" if end == "wait" else "closed", "end": end,
            "received": base64.b64encode(data[:65536]).decode()}


def tcp(op):
    """Connects, sends the pieces of "send", and reads "expect" bytes."""
    try:
        with connect(op) as link:
            try:
                for piece in op.get("send", []):
                    link.sendall(base64.b64decode(piece))
                    if op.get("pause"):
                        time.sleep(op["pause"])
            except OSError as error:
                return {**described(b"", "reset"), "error": str(error)}
            data, end = receive(link, op.get("expect", 1), op["wait"])
            return described(data, end)
    except LookupError as error:
        return {"saw": str(error)}
    except OSError as error:
        return {"saw": word(error)}


def tls(op):
    """A whole TLS client: "untrusted" is a certificate that is not good."""
    try:
        with connect(op) as link:
            context = ssl.create_default_context(cadata=op["root"])
            if op.get("sni") is None:
                context.check_hostname = False
            try:
                with context.wrap_socket(link, server_hostname=op.get("sni")) as secured:
                    secured.sendall(base64.b64decode(op["send"]))
                    return {**described(*receive(secured, 1, op["wait"])), "version": secured.version()}
            except ssl.SSLCertVerificationError as error:
                return {"saw": "untrusted", "error": error.verify_message}
            except ssl.SSLEOFError as error:
                return {"saw": "closed", "error": str(error)}
            except ssl.SSLError as error:
                return {"saw": "no TLS", "error": str(error)}
            except OSError as error:
                return {"saw": "closed" if error.errno == errno.ECONNRESET else word(error), "error": str(error)}
    except LookupError as error:
        return {"saw": str(error)}
    except OSError as error:
        return {"saw": word(error)}


def hold(op):
    """A connection that stays; its first bytes are read."""
    try:
        link = connect(op)
    except LookupError as error:
        return {"saw": str(error)}
    except OSError as error:
        return {"saw": word(error)}
    held[op["key"]] = link
    return described(*receive(link, 1, op["wait"]))


def use(op):
    """Sends on a held connection, where there is something to send, and reads."""
    if op["key"] not in held:
        return {"saw": "not held"}
    link = held[op["key"]]
    try:
        if op.get("send"):
            link.sendall(base64.b64decode(op["send"]))
    except OSError as error:
        return {**described(b"", "reset"), "error": str(error)}
    return described(*receive(link, 1, op["wait"]))


def drop(op):
    for key in [key for key in held if key.startswith(op["key"])]:
        held.pop(key).close()
    return {"saw": "dropped"}


def sweep(op):
    """Connects to many: how often what was seen, and the first that were not refused."""
    saw, odd, targets, waiting = {}, [], list(map(tuple, op["targets"]))[::-1], {}
    poll = select.epoll()

    def seen(target, what):
        count(saw, what)
        if what not in ("refused", "no network") and len(odd) < 10:
            odd.append([*target, what])

    while targets or waiting:
        while targets and len(waiting) < op.get("at_a_time", 128):
            target = targets.pop()
            link = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET, socket.SOCK_STREAM)
            link.setblocking(False)
            code = link.connect_ex(target)
            if code in (0, errno.EINPROGRESS):
                poll.register(link, select.EPOLLOUT | select.EPOLLERR)
                waiting[link.fileno()] = (link, target, time.monotonic() + op["wait"])
            else:
                link.close()
                seen(target, word(OSError(code, "")))
        for descriptor, _ in poll.poll(0.05 if waiting else 0):
            link, target, _ = waiting.pop(descriptor)
            code = link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            seen(target, word(OSError(code, "")) if code else "connected")
            link.close()
        now = time.monotonic()
        for descriptor in [key for key, value in waiting.items() if value[2] < now]:
            link, target, _ = waiting.pop(descriptor)
            link.close()
            seen(target, "no answer")
    poll.close()
    return {"saw": saw, "odd": odd}


def crowd(op):
    """Opens many connections to one address and keeps them under the key "crowd"."""
    saw, waiting, poll = {}, {}, select.epoll()
    for i in range(op["count"]):
        link = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        link.setblocking(False)
        code = link.connect_ex(tuple(op["to"]))
        if code in (0, errno.EINPROGRESS):
            waiting[link.fileno()] = held[f"crowd{i}"] = link
            poll.register(link, select.EPOLLOUT | select.EPOLLERR)
        else:
            count(saw, word(OSError(code, "")))
    end = time.monotonic() + op["wait"]
    while waiting and time.monotonic() < end:
        for descriptor, _ in poll.poll(0.1):
            link = waiting.pop(descriptor)
            poll.unregister(descriptor)
            code = link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            count(saw, word(OSError(code, "")) if code else "connected")
    for _ in waiting:
        count(saw, "no answer")
    poll.close()
    return {"saw": saw}


def udp(op):
    """Sends a datagram to each target; what comes back within the wait."""
    sent, answers, errors = 0, [], {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for address, port in op["targets"]:
            try:
                link.sendto(base64.b64decode(op["data"]), (address, port))
                sent += 1
            except OSError as error:
                count(errors, word(error))
        end = time.monotonic() + op["wait"]
        while (left := end - time.monotonic()) > 0:
            if select.select([link], [], [], left)[0]:
                try:
                    data, source = link.recvfrom(65536)
                    answers.append([*source, base64.b64encode(data[:1024]).decode()])
                except OSError as error:
                    count(errors, word(error))
    return {"saw": "answered" if answers else "no answer", "sent": sent, "answers": answers[:10], "errors": errors}


# --- Frames --------------------------------------------------------------------------------------


def packet_socket():
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    link.bind((INTERFACE, 0))
    return link


def hear(link, seconds):
    """Frames that come in, as they come."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([link], [], [], left)[0]:
            frame, address = link.recvfrom(70000)
            if address[2] != PACKET_OUTGOING:
                yield frame


def frames(op):
    """Puts frames on the cable as they are; what comes in within the wait."""
    with packet_lock:
        try:
            link = packet_socket()
        except OSError as error:
            return {"saw": word(error), "heard": []}
        errors = {}
        with link:
            for frame in op["frames"]:
                try:
                    link.send(base64.b64decode(frame))
                except OSError as error:
                    if error.errno == errno.ENOBUFS:
                        time.sleep(0.01)
                    count(errors, errno.errorcode.get(error.errno, "?"))
            heard = list(hear(link, op["wait"]))
        return {"saw": "answered" if heard else "no answer", "errors": errors,
                "heard": [base64.b64encode(frame).decode() for frame in heard[:op.get("keep", 100)]]}


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def set_address(address):
    """The interface's address, and with it the route; 0.0.0.0 takes both away, so that our kernel leaves alone what
    comes in."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        def request(code, value):
            fcntl.ioctl(link, code, struct.pack("16sHH4s8x", INTERFACE.encode(), socket.AF_INET, 0, socket.inet_aton(value)))

        request(SIOCSIFADDR, address)
        if address == "0.0.0.0":
            return
        request(SIOCSIFNETMASK, NETMASK)
        any_address = struct.pack("HH4s8x", socket.AF_INET, 0, bytes(4))
        gateway = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(GATEWAY))
        # struct rtentry: flags are up and gateway.
        route = struct.pack("L16s16s16sHhLPhPLLH6x", 0, any_address, gateway, any_address, 3, 0, 0, 0, 0, 0, 0, 0, 0)
        try:
            fcntl.ioctl(link, SIOCADDRT, route)
        except FileExistsError:
            pass


FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16, "U": 32}


def segment(to, source_port, sequence, acknowledgement, step):
    flags = sum(FLAGS[letter] for letter in step["flags"])
    options = base64.b64decode(step.get("options", ""))
    data = base64.b64decode(step.get("data", ""))
    tcp_header = struct.pack("!HHIIBBHHH", source_port, to[1], sequence & 0xffffffff, acknowledgement & 0xffffffff,
                             (20 + len(options)) // 4 << 4, flags, step.get("window", 65535), 0, step.get("urgent", 0)) + options
    addresses = socket.inet_aton(ADDRESS) + socket.inet_aton(to[0])
    total = checksum(addresses + struct.pack("!HH", 6, len(tcp_header) + len(data)) + tcp_header + data)
    tcp_header = tcp_header[:16] + struct.pack("!H", total) + tcp_header[18:]
    ip_header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp_header) + len(data), 1, 0x4000, 64, 6, 0) + addresses
    ip_header = ip_header[:10] + struct.pack("!H", checksum(ip_header)) + ip_header[12:]
    return GATEWAY_MAC + GUEST_MAC + b"\x08\0" + ip_header + tcp_header + data


def script(op):
    """A TCP by hand: each step is a segment and a wait. Sequence numbers count from our first; acknowledged is what
    has come, or what the step says. Results are the segments that came, counted from theirs."""
    try:
        to = find(op)
        with packet_lock, packet_socket() as link:
            set_address("0.0.0.0")
            try:
                return play(link, to, op)
            finally:
                set_address(ADDRESS)
    except LookupError as error:
        return {"saw": str(error), "heard": []}
    except OSError as error:
        return {"saw": word(error), "heard": []}


def play(link, to, op):
    first, theirs, next_theirs, heard, received = op.get("first", 1000), None, 0, [], b""
    for step in op["steps"]:
        source_port = step.get("from", op["from"])
        if step.get("flags"):
            acknowledgement = next_theirs if "acknowledge" not in step else (theirs or 0) + step["acknowledge"]
            link.send(segment(to, source_port, first + step.get("sequence", 0), acknowledgement, step))
        for frame in hear(link, step.get("wait", 0)):
            if frame[12:14] != b"\x08\0" or frame[23] != 6 or frame[26:30] != socket.inet_aton(to[0]):
                continue
            tcp_part = frame[34:14 + int.from_bytes(frame[16:18], "big")]
            _, port, sequence, acknowledged, offset, flags = struct.unpack("!HHIIBB", tcp_part[:14])
            if port != source_port:
                continue
            data = tcp_part[(offset >> 4) * 4:]
            if flags & 2:
                theirs, next_theirs = sequence, sequence + 1
            if data and sequence == next_theirs & 0xffffffff:
                received += data
                next_theirs += len(data)
            heard.append(["".join(letter for letter, bit in FLAGS.items() if flags & bit),
                          (sequence - (theirs or 0)) & 0xffffffff, (acknowledged - first) & 0xffffffff, len(data)])
            # All that the step waits for: an answer to the SYN, or so many bytes; nothing comes behind a reset.
            if flags & 4 or step.get("until") == "SYN" or len(received) >= step.get("until_bytes", 1 << 30):
                break
    flags = "".join(entry[0] for entry in heard)
    saw = "answered" if received else "refused" if "R" in flags and "S" not in flags else "closed" if "R" in flags else (
        "silent" if heard else "no answer")
    return {"saw": saw, "heard": heard[:100], "received": base64.b64encode(received[:65536]).decode()}


def vsock(op):
    """Connects to ports of a context: how often what was seen, and the ports that answered."""
    saw, odd = {}, []
    for cid, port in op["targets"]:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as link:
            link.settimeout(op["wait"])
            try:
                link.connect((cid, port))
                what = "connected"
            except OSError as error:
                what = word(error)
            count(saw, what)
            if what == "connected" and len(odd) < 20:
                odd.append([cid, port])
    return {"saw": saw, "odd": odd}


def files(_):
    """What of the host's is to be seen from in here."""
    return {"saw": "listed", "interfaces": sorted(os.listdir("/sys/class/net"))}


OPS = {function.__name__: function for function in (dns, dns_many, tcp, tls, hold, use, drop, sweep, crowd, udp, frames, script, vsock, files)}


def perform(op):
    try:
        return OPS[op["op"]](op)
    except Exception as error:  # whatever it is, the test outside wants to know
        return {"saw": f"the probe failed: {type(error).__name__}: {error}"}


def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    source = os.fdopen(int(sys.argv[1]), "r") if len(sys.argv) > 1 else sys.stdin
    sink = os.fdopen(int(sys.argv[1]), "w", closefd=False) if len(sys.argv) > 1 else sys.stdout
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        for line in source:
            print(json.dumps({"results": list(pool.map(perform, json.loads(line)["ops"]))}), file=sink, flush=True)


if __name__ != "probe":
    main()
