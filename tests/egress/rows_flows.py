"""Rows about TCP: what reaches the far side is what was decided about, in order, and not too much of it."""

import random

import world
from bed import b64
from hellos import hello, records
from table import row

PLAIN = world.ADDRESSES["plain.test"]
WILD = world.ADDRESSES["wild.test"]
# Under `all` no rule names the port, and what is spoken has to be seen first: there the address, which needs no look.
LITERAL = [world.WEB, 8099]


def script(bed, what, steps, received=None, arrives=("tcp", "data"), to=LITERAL, port=[50000]):
    """Plays segments towards the listener that echoes; `received` is what has to come back, of several the one."""
    port[0] += 1
    target = {"to": to} if isinstance(to, list) else {"name": to, "port": 443}
    address = f"{to[0]}:{to[1]}" if isinstance(to, list) else f"{WILD}:443"
    expected = [] if bed.policy == "none" else [f"{kind} {address}" for kind in arrives]
    if not isinstance(to, list) and expected:
        expected.append(f"dns {to}")
    result = bed.look([({"op": "script", **target, "from": port[0], "steps": steps, "wait": bed.patience},
                        lambda result: bed.policy != "none" or result["saw"] in ("refused", "no answer", "NXDOMAIN"))], what, expected)[0]
    if received is not None and bed.policy != "none" and bed.guest.has_network and bed.received(result) not in (
            [received] if isinstance(received, bytes) else received):
        bed.fault(f"{what}: came back {bed.received(result)[:200]}, heard {result.get('heard')}")
    return result


def data(bytes_, at, flags="PA", wait=0, **more):
    return {"flags": flags, "sequence": at, "data": b64(bytes_), "wait": wait, **more}


@row("B28", "TCP: data in the SYN, overlaps with other bytes, out of the window, urgent, simultaneous open, odd flags, single "
     "bytes", "nothing leaves before the decision; what leaves is what was looked at, in order, once")
def tcp_games(bed):
    wait = bed.silence * 2
    banner = world.BANNER
    opening = [{"flags": "S", "wait": wait}, {"flags": "A", "sequence": 1, "wait": wait}]
    closing = [{"flags": "R", "sequence": 5000}]
    early = bed.token().encode()
    script(bed, "data in the SYN", [data(early, 0, "S", wait)] + opening[1:] + closing, arrives=["tcp"])
    script(bed, "data in the SYN of what is not TLS", [data(early, 0, "S", wait), {"flags": "R", "sequence": 1, "wait": wait}], arrives=["tcp"],
           to="a.wild.test")
    script(bed, "in order", opening + [data(b"AAAA", 1), data(b"BBBB", 5, wait=wait)] + closing, banner + b"AAAABBBB")
    script(bed, "the same again with other bytes", opening + [data(b"AAAA", 1, wait=wait), data(b"XXXX", 1, wait=wait), data(b"BBBB", 5, wait=wait)] + closing,
           banner + b"AAAABBBB")
    script(bed, "an overlap with other bytes", opening + [data(b"AAAA", 1, wait=wait), data(b"XXBB", 3, wait=wait), data(b"BBCC", 5, wait=wait)] + closing,
           [banner + b"AAAABBCC"])
    script(bed, "the later bytes first, twice, otherwise", opening + [data(b"YYYY", 5), data(b"ZZZZ", 5), data(b"AAAA", 1, wait=wait), data(b"BBBB", 5, wait=wait)] +
           closing, [banner + b"AAAABBBB", banner + b"AAAAYYYY"])
    lost = bed.token().encode()
    for at in (70000, 1 << 20, 0x7fffffff, 0x80000001, -30, -100000):
        script(bed, f"{at} bytes on", opening + [data(lost, at, wait=wait)] + closing, banner, ["tcp"])
    script(bed, "acknowledging what was not sent", opening + [data(lost, 1, wait=wait, acknowledge=100000)] + closing, banner, ["tcp"])
    script(bed, "urgent", opening + [data(b"AABB", 1, "PAU", wait, urgent=2)] + closing, banner + b"AABB")
    script(bed, "urgent beyond its end", opening + [data(b"AABB", 1, "PAU", wait, urgent=65535)] + closing, banner + b"AABB")
    odd = bed.token().encode()
    for flags in ("SA", "A", "F", "", "FPU", "SF", "SR", "FSRPAU", "PA", "FA"):
        steps = [{"flags": flags or "U", "sequence": 1, "data": b64(odd), "wait": wait / 2}]
        script(bed, f"{flags or 'no flag'} without a connection", steps, arrives=[])
    script(bed, "data behind the end", opening + [data(b"AAAA", 1, "FPA", wait), data(odd, 6, wait=wait)] + closing, banner + b"AAAA")
    script(bed, "data behind a reset", opening + [data(b"AAAA", 1, wait=wait), {"flags": "R", "sequence": 5}, data(odd, 5, wait=wait)], banner + b"AAAA")
    letters = bytes(random.Random(28).choices(b"abcdefghij", k=200))
    script(bed, "single bytes", opening + [data(letters[i:i + 1], 1 + i) for i in range(len(letters))] + [{"wait": wait}] + closing, banner + letters)

    # Bytes that were looked at are sent again with another name in them.
    true, false = bed.token(arrives=bed.policy != "none"), bed.token()
    good, bad = (records(hello(f"{name}.wild.test".encode())) for name in (true, false))
    at = good.index(true.encode()) + 10
    bad = good.replace(true.encode(), false.encode())
    steps = opening + [data(good[:at], 1, wait=wait), data(bad[:at + 40], 1, wait=wait), data(good[at:], 1 + at, wait=wait * 2), data(bad, 1, wait=wait)] + closing
    script(bed, "another name over the one that was looked at", steps, to=f"{true}.wild.test")


@row("B29", "1,500 connections, 3,000 SYNs at once, connections that say nothing", "at most 1,024 connections; the broker keeps to its "
     "share; afterwards all is as before", is_heavy=True)
def floods(bed):
    name, port = "plain.test", 8099
    count = 1500 if bed.level == "library" else 1200
    address = bed.guest.do([{"op": "dns", "name": name, "wait": bed.patience}])[0].get("address") or "198.18.0.9"

    def crowded(result):
        connected = result["saw"].get("connected", 0)
        return 900 <= connected <= 1024 and set(result["saw"]) <= {"connected", "no answer", "refused"}
    arrives = [f"dns {name}", f"tcp {PLAIN}:{port}"]
    bed.look([({"op": "crowd", "to": [address, port], "count": count, "wait": bed.patience * 2},
               bed.by(lambda result: result["saw"] == {"refused": count}, crowded, crowded))], "connections", bed.by([], arrives, arrives))
    descriptors = bed.guest.broker_descriptors()
    if descriptors is not None and descriptors > 1024 + 64:
        bed.fault(f"the broker has {descriptors} descriptors")
    bed.look([({"op": "drop", "key": "crowd"}, "dropped")], "they end")
    # From addresses of ports that nobody has; the kernel inside resets what is answered.
    steps = [{"flags": "S", "from": 1024 + i} for i in range(3000)]
    bed.look([({"op": "script", "to": [address, port], "from": 1, "steps": steps + [{"wait": bed.silence}]}, {"no answer", "refused", "silent", "answered"})],
             "SYNs", may=[f"dns {name}", f"tcp {PLAIN}:{port}"])
