"""The ledger: what reached the world outside, and what reached the host's own addresses.

Raw sockets on both interfaces keep every frame, whatever becomes of it. An event is a line:

  dns NAME            a question to the resolver that the sandbox's broker was given
  tcp ADDRESS:PORT    a SYN
  data ADDRESS:PORT   the first bytes on a connection
  udp ADDRESS:PORT    any other datagram
  icmp ADDRESS, ip PROTOCOL ADDRESS, ethertype NUMBER
  tls NAME, http NAME the name by which a server of the world was asked
  host ...            the same on the host's loopback: nothing may arrive there

Apart from that, every token that went by in clear, split over segments or not, is kept.
"""

import re
import secrets
import socket
import struct
import threading
import time

TOKEN = re.compile(rb"zq[0-9a-f]{20}zq")
TOKEN_SIZE = 24
ETH_P_ALL = 3
PACKET_OUTGOING = 4
SO_RCVBUFFORCE = 33
SOL_PACKET, PACKET_STATISTICS = 263, 6
# What the two ends of the cable say to each other by themselves: router and neighbour discovery, multicast listeners.
NEIGHBOUR_TALK = {130, 131, 132, 133, 134, 135, 136, 143}


def new_token():
    return f"zq{secrets.token_hex(10)}zq"


def question_name(message):
    """The name in a DNS query, or None."""
    labels, at = [], 12
    while at < len(message):
        size = message[at]
        if size == 0:
            return ".".join(labels)
        if size > 63:
            return None
        labels.append(message[at + 1:at + 1 + size].decode("latin-1").lower())
        at += 1 + size
    return None


class Ledger:
    def __init__(self, resolver):
        self.resolver = resolver
        self.lock = threading.Lock()
        self.events = []
        self.tokens = set()
        self.ignored_ports = set()  # of the host's loopback: what the test itself talks over
        self.frames = 0
        self.streams = {}
        self.sockets = []
        self.threads = []
        self.is_open = True

    def watch(self, interface, prefix="", both_ways=False):
        """Keeps what arrives at an interface of the calling thread's namespace."""
        recorder = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        recorder.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        recorder.bind((interface, 0))
        recorder.settimeout(0.5)
        self.sockets.append(recorder)
        thread = threading.Thread(target=self.record, args=(recorder, prefix, both_ways), daemon=True)
        self.threads.append(thread)
        thread.start()

    def record(self, recorder, prefix, both_ways):
        while self.is_open:
            try:
                frame, address = recorder.recvfrom(70000)
            except TimeoutError:
                continue
            if address[2] == PACKET_OUTGOING:
                continue
            with self.lock:
                self.frames += 1
                self.take_frame(frame, prefix)

    def add(self, event):
        self.events.append(event)

    def note(self, event, data=b""):
        """From a server: what it was asked."""
        with self.lock:
            self.add(event)
            self.tokens.update(TOKEN.findall(data.lower()))

    def take_frame(self, frame, prefix):
        kind = int.from_bytes(frame[12:14], "big")
        before = len(self.events)
        if kind == 0x0800 and len(frame) >= 34:
            self.take_ip(socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34]), frame[23],
                         frame[14 + (frame[14] & 15) * 4:14 + int.from_bytes(frame[16:18], "big")], prefix)
        elif kind == 0x86dd and len(frame) >= 54:
            if not (frame[20] in (0, 58) and self.is_neighbour_talk(frame)):
                self.take_ip(socket.inet_ntop(socket.AF_INET6, frame[22:38]), socket.inet_ntop(socket.AF_INET6, frame[38:54]),
                             frame[20], frame[54:], prefix)
        elif kind != 0x0806:
            self.add(f"{prefix}ethertype {kind:#06x}")
        if len(self.events) != before or not prefix:
            self.tokens.update(TOKEN.findall(frame.lower()))

    @staticmethod
    def is_neighbour_talk(frame):
        at = 54
        if frame[20] == 0:  # hop-by-hop options stand before a multicast listener's report
            at += (frame[55] + 1) * 8
        return at < len(frame) and frame[at] in NEIGHBOUR_TALK

    def take_ip(self, source, destination, protocol, data, prefix):
        if protocol == 6 and len(data) >= 20:
            self.take_tcp(source, destination, data, prefix)
        elif protocol == 17 and len(data) >= 8:
            port = int.from_bytes(data[2:4], "big")
            if int.from_bytes(data[0:2], "big") in self.ignored_ports or port in self.ignored_ports:
                return
            name = question_name(data[8:]) if port == 53 and destination == self.resolver else None
            self.add(f"{prefix}udp {destination}:{port}" if name is None else f"{prefix}dns {name}")
        elif protocol in (1, 58):
            # An error of the host's own kernel about what the world sent, such as an answer that came too late.
            if not (data[:1] == b"\3" and protocol == 1):
                self.add(f"{prefix}icmp {destination}")
        else:
            self.add(f"{prefix}ip {protocol} {destination}")

    def take_tcp(self, source, destination, data, prefix):
        source_port, port, _, _, offset, flags = struct.unpack("!HHIIBB", data[:14])
        if prefix and self.ignored_ports & {source_port, port}:
            return
        key = (prefix, source, source_port, destination, port)
        if flags & 2 and not flags & 16:
            self.add(f"{prefix}tcp {destination}:{port}")
            self.streams[key] = b""
        payload = data[(offset >> 4) * 4:]
        if not payload:
            return
        if self.streams.get(key, b"") == b"" and (key in self.streams or not prefix):
            self.add(f"{prefix}data {destination}:{port}")
        # A token may lie in two segments.
        stream = self.streams.get(key, b"") + payload.lower()
        self.tokens.update(TOKEN.findall(stream))
        self.streams[key] = stream[-TOKEN_SIZE:] or b"\0"

    def take(self):
        """The events since the last call."""
        with self.lock:
            events, self.events = self.events, []
            return events

    def has(self, token):
        with self.lock:
            return token.encode() in self.tokens

    def lost(self):
        """Frames that the recorders had no room for: then the ledger proves nothing."""
        return sum(struct.unpack("II", recorder.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1] for recorder in self.sockets)

    def close(self):
        self.is_open = False
        for thread in self.threads:
            thread.join(2)
        for recorder in self.sockets:
            recorder.close()


def settle(ledger, seconds):
    """Waits until nothing has come for so long."""
    seen = -1
    while seen != ledger.frames:
        seen = ledger.frames
        time.sleep(seconds)
