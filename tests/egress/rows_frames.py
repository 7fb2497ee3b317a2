"""Rows about frames that no ordinary program sends."""

import base64
import random
import struct

import packets
import world
from bed import b64
from packets import BROADCAST, arp, dhcp, ethernet, icmp, icmp6, ip, ip6, syn, tcp, udp
from probe import ADDRESS, GATEWAY, GATEWAY_MAC, GUEST_MAC
from table import row

ELSEWHERE = bytes.fromhex("0a0a0a0a0a0a")
SIX = "2606:2800:220:9::1"


def send(bed, frames, what="", heard=None, dropped=(), arrives=()):
    """Puts frames on the cable; `heard` looks at the frames that came. Where the counters can be read, those of `dropped`
    have counted."""
    before = bed.counters()
    results = bed.look([({"op": "frames", "frames": [b64(frame) for frame in frames], "wait": bed.silence}, {"answered", "no answer"})], what, arrives)
    frames = [base64.b64decode(frame) for frame in results[0].get("heard", [])]
    if heard and bed.guest.has_network and (fault := heard(frames)):
        bed.fault(f"{what}: {fault}")
    after = bed.counters()
    for reason in dropped if after else ():
        if after["dropped"].get(reason, 0) <= before["dropped"].get(reason, 0):
            bed.fault(f"{what}: nothing was counted as {reason}")
    return frames


def nothing(frames):
    return f"heard {packets.kinds(frames)}" if frames else None


def good_frame(bed):
    """That a frame of this make gets through where it may: what was dropped before was so for its fault."""
    may = bed.policy != "none"

    def heard(frames):
        flags = [frame[47] for frame in frames if frame[23] == 6]
        return None if flags[:1] == [0x12 if may else 0x14] else f"a good SYN was answered with {flags}"
    send(bed, [syn(world.WEB, 8099, source_port=40001)], "a good frame", heard, arrives=[f"tcp {world.WEB}:8099"] if may else [])


def pinged(bed, what="the gateway's ping"):
    """That the gateway answers an echo, and to whom."""
    payload = bed.token().encode()

    def heard(frames):
        answers = [frame for frame in frames if frame[12:14] == b"\x08\0" and frame[23] == 1 and frame[34] == 0 and payload in frame]
        return None if answers and answers[0][:12] == GUEST_MAC + GATEWAY_MAC else f"no echo reply: {packets.kinds(frames)}"
    send(bed, [ethernet(0x0800, ip(GATEWAY, 1, icmp(8, 0, 0x10001, payload)))], what, heard)


@row("B18", "IPv6: router advertisements, neighbours, listeners, DHCP, TCP and UDP, in IPv4 and IPv4 in it", "dropped, there is "
     "no IPv6")
def version_six(bed):
    token = bed.token().encode()
    source = "2606:2800:220:9::2"
    frames = [ethernet(0x86dd, packet, destination=destination) for destination in (GATEWAY_MAC, bytes.fromhex("333300000001")) for packet in (
        icmp6("ff02::1", 134, struct.pack("!BBHII", 64, 0xc0, 1800, 0, 0) + token),
        icmp6("ff02::2", 133, bytes(4) + token),
        icmp6("ff02::1:ff00:1", 135, bytes(4) + bytes(16) + token),
        icmp6("ff02::1", 136, bytes.fromhex("60000000") + bytes(16) + token),
        icmp6("ff02::16", 143, bytes(4) + token),
        icmp6(SIX, 128, bytes(4) + token, source),
        ip6("ff02::1:2", 17, udp("ff02::1:2", 547, token, "fe80::48:55ff:fe54:4301", 546)),
        ip6(SIX, 6, tcp(SIX, 8099, payload=token, source=source), source),
        ip6(SIX, 17, udp(SIX, 53, token, source), source),
        ip6("::ffff:93.184.216.34", 6, tcp("::ffff:93.184.216.34", 8099, payload=token, source=source), source),
        ip6("64:ff9b::5db8:d822", 6, tcp("64:ff9b::5db8:d822", 8099, payload=token, source=source), source),
        ip6(SIX, 4, ip(world.WEB, 6, tcp(world.WEB, 8099, payload=token)), source),
        ip6(SIX, 44, bytes(8) + token, source),
        ip6(SIX, 0, token, source),
    )]
    frames += [ethernet(0x0800, ip(world.WEB, 41, ip6(SIX, 6, tcp(SIX, 8099, payload=token, source=source), source)))]
    send(bed, frames, "frames", nothing, ["ipv6", "ip-protocol"])
    bed.look([({"op": "sweep", "targets": [[SIX, 8099], [world.HOST6, 80], ["fd00:ec2::254", 80]], "wait": bed.silence * 2},
               lambda result: set(result["saw"]) <= {"refused", "no network", "no answer"})], "connections")


@row("B19", "a false sender: MAC address and IP address", "dropped, and counted")
def false_sender(bed):
    token = bed.token().encode()
    for source in (ELSEWHERE, GATEWAY_MAC, bytes(6), BROADCAST):
        send(bed, [ethernet(0x0800, ip(world.WEB, 6, tcp(world.WEB, 8099, payload=token)), source=source)], f"from {source.hex()}", nothing,
             ["source-mac"])
    for source in ("10.0.2.16", GATEWAY, "0.0.0.0", "127.0.0.1", "255.255.255.255", world.HOST, "8.8.8.8"):
        frames = [ethernet(0x0800, ip(world.WEB, 6, tcp(world.WEB, 8099, payload=token, source=source), source)),
                  ethernet(0x0800, ip(world.RESOLVER, 17, udp(world.RESOLVER, 53, token, source), source))]
        send(bed, frames, f"from {source}", nothing, ["ip-source"])
    good_frame(bed)
    pinged(bed)


@row("B20", "ARP: claims to be the gateway, asks for neighbours, storms", "the gateway stays what it is and answers for itself alone")
def arp_games(bed):
    def own_answers(frames):
        wrong = [frame for frame in frames if frame[12:14] == b"\x08\6" and (frame[20:22] != b"\0\2" or frame[22:28] != GATEWAY_MAC or
                                                                         frame[28:32] != bytes([10, 0, 2, 2]))]
        return f"heard {[frame.hex() for frame in wrong]}" if wrong else None

    claims = [ethernet(0x0806, arp(operation, mac, GATEWAY, BROADCAST, target), destination=BROADCAST)
              for operation in (1, 2) for mac in (GUEST_MAC, ELSEWHERE) for target in (GATEWAY, "10.0.2.3")]
    send(bed, claims, "claims", own_answers, ["arp-spoof"])
    asked = [ethernet(0x0806, arp(1, GUEST_MAC, ADDRESS, bytes(6), f"10.0.2.{i}"), destination=BROADCAST) for i in range(3, 60)]
    asked += [ethernet(0x0806, arp(1, GUEST_MAC, ADDRESS, bytes(6), address), destination=BROADCAST) for address in (world.HOST, world.GATEWAY)]
    send(bed, asked, "neighbours", nothing, ["arp-unasked"])
    send(bed, [ethernet(0x0806, arp(2, GUEST_MAC, ADDRESS, GATEWAY_MAC, GATEWAY))] * 500, "a storm", own_answers)
    broken = arp(1, GUEST_MAC, ADDRESS, bytes(6), GATEWAY)
    send(bed, [ethernet(0x0806, broken[:at]) for at in (0, 7, 8, 27)] + [ethernet(0x0806, b"\0\6" + broken[2:])], "broken", nothing)

    def gateway_answers(frames):
        return None if any(frame[12:14] == b"\x08\6" and frame[22:28] == GATEWAY_MAC for frame in frames) else "the gateway does not answer"
    send(bed, [ethernet(0x0806, arp(1, GUEST_MAC, ADDRESS, bytes(6), GATEWAY), destination=BROADCAST)], "the gateway", gateway_answers)
    pinged(bed)


@row("B21", "DHCP: answers of a server in the sandbox, clients without number", "ignored, and the one address for all")
def dhcp_games(bed):
    def datagram(message, port, source_port, source="0.0.0.0"):
        return ethernet(0x0800, ip("255.255.255.255", 17, udp("255.255.255.255", port, message, source, source_port), source), destination=BROADCAST)

    send(bed, [datagram(dhcp(kind, operation=2, offered="10.0.2.99"), 68, 67, source) for kind in (2, 5) for source in (ADDRESS, GATEWAY)],
         "a server", nothing)
    chosen = random.Random(21)

    def one_address(frames):
        offered = {frame[58:62] for frame in frames if frame[12:14] == b"\x08\0" and frame[23] == 17 and frame[36:38] == b"\0\x44"}
        return None if offered <= {bytes([10, 0, 2, 15])} else f"offered {offered}"
    send(bed, [datagram(dhcp(1, mac=b"\2" + chosen.randbytes(5)), 67, 68) for _ in range(300)], "starvation", one_address)
    send(bed, [datagram(dhcp(1)[:size], 67, 68) for size in (0, 100, 236, 240, 242)] + [datagram(dhcp(1, options=b"\x37\xff"), 67, 68)],
         "broken", nothing, ["dhcp"])


@row("B22", "VLAN tags, LLC, PPPoE, unknown EtherTypes, frames too long and too short", "dropped, and counted")
def other_frames(bed):
    token = bed.token().encode()
    inner = ip(world.WEB, 6, tcp(world.WEB, 8099, payload=token))
    frames = [ethernet(0x8100, b"\0\1\x08\0" + inner), ethernet(0x88a8, b"\0\1\x81\0\0\1\x08\0" + inner), ethernet(len(inner), b"\xaa\xaa\3\0\0\0\x08\0" + inner),
              ethernet(0x8864, b"\x11\0\0\1" + struct.pack("!H", len(inner) + 2) + b"\0\x21" + inner), ethernet(0x88b5, inner), ethernet(0, inner),
              ethernet(0x8847, b"\0\0\1\xff" + inner), ethernet(0x0801, inner), ethernet(0x0800, inner, destination=ELSEWHERE)]
    send(bed, frames, "frames", nothing, ["ether-type"])
    # The kernel inside may refuse to send these: what it does send has to stop.
    send(bed, [ethernet(0x0800, inner)[:size] for size in range(1, 20)], "too short", nothing)
    send(bed, [ethernet(0x0800, ip(world.WEB, 6, tcp(world.WEB, 8099, payload=token * 60)) + bytes(size)) for size in (1501, 9000, 65000)],
         "too long")
    pinged(bed)


@row("B23", "IPv4: fragments, source routes, lengths that are not true, wrong checksums", "dropped")
def broken_packets(bed):
    token = bed.token().encode()
    good = tcp(world.WEB, 8099, payload=token)

    def packet(payload=good, **more):
        return ethernet(0x0800, ip(world.WEB, 6, payload, **more))
    fragments = [packet(good[:8], fragment=0x2000), packet(good[8:], fragment=1), packet(good[:24], fragment=0x2000), packet(good[16:], fragment=2),
                 packet(bytes(1400), fragment=0x1fff), packet(good, fragment=0x2000), packet(good, fragment=0x8000 | 0x2000)]
    send(bed, fragments, "fragments", nothing, ["ip-fragment"])
    route = bytes([131, 7, 4]) + bytes([1, 1, 1, 1]) + b"\0"
    send(bed, [packet(options=route), packet(options=bytes([137]) + route[1:]), packet(options=b"\1" * 40), packet(options=b"\x07\x00\0\0"), packet(words=4),
               packet(words=0), packet(words=15), packet(version=6), packet(version=0)], "headers", nothing, ["ip-header"])
    send(bed, [packet(length=length) for length in (0, 10, 19, 20 + len(good) + 1, 65535)], "lengths", nothing, ["ip-length"])
    send(bed, [packet(wrong_sum=True), packet(good[:16] + b"\x12\x34" + good[18:])], "checksums", nothing, ["ip-checksum"])
    good_frame(bed)
    pinged(bed)


@row("B24", "UDP everywhere: QUIC, NTP, all ports", "no answer, or an ICMP error; nothing leaves")
def datagrams(bed):
    token = b64(bed.token().encode() + bytes(1200))
    ports = list(range(1, 65536, 1 if bed.level == "library" else 97))
    targets = [[world.WEB, port] for port in ports if port != 53]
    targets += [[address, port] for address in ("8.8.8.8", "1.1.1.1", "10.0.0.5", world.HOST) for port in (123, 443, 500, 4500, 51820)]
    bed.look([({"op": "udp", "targets": targets, "data": token, "wait": bed.silence * 2},
               lambda result: not result["answers"] and result["sent"] == len(targets))])
    # To the names' addresses, too.
    if bed.policy != "none":
        address = bed.guest.do([{"op": "dns", "name": "a.wild.test", "wait": bed.patience}])[0].get("address") or "198.18.0.9"
        bed.look([({"op": "udp", "targets": [[address, port] for port in (443, 80, 123)], "data": token, "wait": bed.silence}, "no answer")], "QUIC")


@row("B25", "ICMP with data to the outside, false ICMP errors, all other IP protocols", "the gateway's own echo alone is answered; "
     "nothing leaves")
def other_protocols(bed):
    token = bed.token().encode()
    bait = ip(ADDRESS, 6, tcp(ADDRESS, 40000, source=world.WEB), world.WEB)[:28]
    messages = [icmp(8, 0, 1, token), icmp(0, 0, 1, token), icmp(5, 1, 0x08080808, bait), icmp(3, 4, 100, bait), icmp(3, 1, 0, bait), icmp(11, 0, 0, bait),
                icmp(13, 0, 0, token), icmp(17, 0, 0, token), icmp(8, 1, 1, token), icmp(255, 255, 0, token)]
    others = [address for address in (world.WEB, "8.8.8.8", "10.0.0.5", "198.18.0.2", world.HOST)]

    def no_echo(frames):
        wrong = [frame for frame in frames if frame[12:14] == b"\x08\0" and frame[23] == 1 and frame[34] in (0, 14, 18)]
        return f"heard {packets.kinds(wrong)}" if wrong else None
    send(bed, [ethernet(0x0800, ip(address, 1, message)) for address in others for message in messages], "ICMP", no_echo, ["icmp-kind"])
    send(bed, [ethernet(0x0800, ip(address, protocol, token)) for address in (world.WEB, GATEWAY) for protocol in range(256) if protocol not in (1, 6, 17)],
         "protocols", nothing, ["ip-protocol"])
    pinged(bed)
