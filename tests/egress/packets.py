"""Frames as a guest could put them on its cable, right or wrong."""

import socket
import struct

from probe import ADDRESS, GATEWAY, GATEWAY_MAC, GUEST_MAC, checksum

BROADCAST = b"\xff" * 6


def ethernet(kind, payload, source=GUEST_MAC, destination=GATEWAY_MAC):
    return destination + source + struct.pack("!H", kind) + payload


def ip(destination, protocol, payload, source=ADDRESS, *, version=4, words=None, length=None, fragment=0x4000, options=b"", wrong_sum=False,
       number=1, ttl=64):
    words = 5 + len(options) // 4 if words is None else words
    length = 20 + len(options) + len(payload) if length is None else length
    header = struct.pack("!BBHHHBBH", version << 4 | words, 0, length, number, fragment, ttl, protocol, 0)
    header += socket.inet_aton(source) + socket.inet_aton(destination) + options
    total = checksum(header) ^ (0x5555 if wrong_sum else 0)
    return header[:10] + struct.pack("!H", total) + header[12:] + payload


def with_sum(header, payload, at, protocol, source, destination):
    """A TCP or UDP header with the checksum at an offset filled in."""
    length = len(header) + len(payload)
    if ":" in destination:
        addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
        addresses += struct.pack("!II", length, protocol)
    else:
        addresses = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!HH", protocol, length)
    total = checksum(addresses + header + payload)
    return header[:at] + struct.pack("!H", total or 0xffff) + header[at + 2:] + payload


def tcp(destination, port, flags=2, payload=b"", source=ADDRESS, source_port=40000, sequence=1000, acknowledgement=0, options=b""):
    header = struct.pack("!HHIIBBHHH", source_port, port, sequence, acknowledgement, (20 + len(options)) // 4 << 4, flags, 65535, 0, 0)
    return with_sum(header + options, payload, 16, 6, source, destination)


def udp(destination, port, payload, source=ADDRESS, source_port=40000):
    return with_sum(struct.pack("!HHHH", source_port, port, 8 + len(payload), 0), payload, 6, 17, source, destination)


def icmp(kind, code, rest, payload):
    message = struct.pack("!BBHI", kind, code, 0, rest) + payload
    return message[:2] + struct.pack("!H", checksum(message)) + message[4:]


def ip6(destination, following, payload, source="fe80::48:55ff:fe54:4301", hops=255):
    return struct.pack("!IHBB", 6 << 28, len(payload), following, hops) + socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(
        socket.AF_INET6, destination) + payload


def icmp6(destination, kind, payload, source="fe80::48:55ff:fe54:4301"):
    return ip6(destination, 58, with_sum(struct.pack("!BBH", kind, 0, 0), payload, 2, 58, source, destination), source)


def arp(operation, sender_mac, sender, target_mac, target):
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + sender_mac + socket.inet_aton(sender) + target_mac + socket.inet_aton(target)


def dhcp(kind, mac=GUEST_MAC, operation=1, offered="0.0.0.0", options=b""):
    """A BOOTP message with its type."""
    return (struct.pack("!BBBBIHH", operation, 1, 6, 0, 0x1234, 0, 0x8000) + bytes(4) + socket.inet_aton(offered) + bytes(8) + mac +
            bytes(10) + bytes(192) + b"\x63\x82\x53\x63" + bytes([53, 1, kind]) + options + b"\xff")


def syn(destination=None, port=8099, **more):
    """A whole frame."""
    return ethernet(0x0800, ip(destination, 6, tcp(destination, port, **more)))


def kinds(frames):
    """What came: (EtherType, IP protocol, source) of each."""
    found = []
    for frame in frames:
        kind = int.from_bytes(frame[12:14], "big")
        found.append((kind, frame[23] if kind == 0x0800 else None, socket.inet_ntoa(frame[26:30]) if kind == 0x0800 else None))
    return found
