"""Rows about TCP: what reaches the far side is what was decided about, in order, and not too much of it."""

import random

import world
from bed import b64
from hellos import hello, records
from table import row

ALLOWED = world.ADDRESSES["allowed.test"]
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
    short, long = bed.silence / 2, bed.patience
    banner = world.BANNER
    opening = [{"flags": "S", "wait": long, "until": "SYN"}, {"flags": "A", "sequence": 1, "wait": long, "until_bytes": len(banner)}]
    closing = [{"flags": "R", "sequence": 5000}]
    early, lost, odd = (bed.token().encode() for _ in range(3))

    def echo(what, steps, *wanted, **more):
        """The last of the steps that has bytes waits for its echo, and for more than is wanted."""
        size = len(banner) + len(wanted[0])
        steps[-1] = {**steps[-1], "wait": long, "until_bytes": size}
        script(bed, what, opening + steps + [{"wait": short}] + closing, [banner + one for one in wanted], **more)

    script(bed, "data in the SYN", [data(early, 0, "S", long, until="SYN"), *opening[1:], {"wait": short}] + closing, arrives=["tcp"])
    script(bed, "data in the SYN of what is not TLS", [data(early, 0, "S", long, until="SYN"), {"flags": "R", "sequence": 1, "wait": short}],
           arrives=["tcp"], to="a.wild.test")
    echo("in order", [data(b"AAAA", 1), data(b"BBBB", 5)], b"AAAABBBB")
    echo("the same again with other bytes", [data(b"AAAA", 1, wait=short), data(b"XXXX", 1, wait=short), data(b"BBBB", 5)], b"AAAABBBB")
    echo("an overlap with other bytes", [data(b"AAAA", 1, wait=short), data(b"XXBB", 3, wait=short), data(b"BBCC", 5)], b"AAAABBCC")
    echo("the later bytes first, twice, otherwise", [data(b"YYYY", 5), data(b"ZZZZ", 5), data(b"AAAA", 1, wait=short), data(b"BBBB", 5)],
         b"AAAABBBB", b"AAAAYYYY")
    beyond = [step for at in (70000, 1 << 20, 0x7fffffff, 0x80000001, -30, -100000) for step in (data(lost, at, wait=short / 2),)]
    script(bed, "far from the window", opening + beyond + closing, banner, ["tcp"])
    script(bed, "acknowledging what was not sent", opening + [data(lost, 1, wait=short, acknowledge=100000)] + closing, banner, ["tcp"])
    echo("urgent", [data(b"AABB", 1, "PAU", urgent=2)], b"AABB")
    echo("urgent beyond its end", [data(b"AABB", 1, "PAU", urgent=65535)], b"AABB")
    for flags in ("SA", "A", "F", "U", "FPU", "SF", "SR", "FSRPAU", "PA", "FA"):
        script(bed, f"{flags} without a connection", [data(odd, 1, flags, short / 2)], arrives=[])
    echo("data behind the end", [data(b"AAAA", 1, "FPA", short), data(odd, 6)], b"AAAA")
    script(bed, "data behind a reset", opening + [data(b"AAAA", 1, wait=long, until_bytes=len(banner) + 4), {"flags": "R", "sequence": 5},
                                                 data(odd, 5, wait=short)], banner + b"AAAA")
    letters = bytes(random.Random(28).choices(b"abcdefghij", k=200))
    echo("single bytes", [data(letters[i:i + 1], 1 + i, wait=long, until_bytes=len(banner) + 1 + i) for i in range(len(letters))], letters)

    # What follows the head at once belongs to it, whoever decided meanwhile.
    web, uploads = world.ADDRESSES["web.test"], 10
    token = bed.token(arrives=bed.policy != "none").encode()
    head = f"POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: {20 * 1024 + len(token)}\r\n\r\n".encode()
    answered = bed.by("NXDOMAIN", "answered", "answered")
    bed.look([({"op": "tcp", "name": "web.test", "port": 80, "send": [b64(piece) for piece in (head, *[bytes(1024)] * 20, token)]}, answered)] * uploads,
             "uploads", bed.by([], *[[f"tcp {web}:80", f"data {web}:80", "dns web.test", "http web.test"]] * 2))

    # Bytes that were looked at are sent again with another name in them.
    true, false, mixed = bed.token(arrives=bed.policy != "none"), bed.token(), "m" * 24
    good, bad, other = (records(hello(f"{name}.wild.test".encode())) for name in (true, false, mixed))
    at = good.index(true.encode()) + 10
    bad = good.replace(true.encode(), false.encode())
    other = good.replace(true.encode(), mixed.encode())
    first = {"flags": "S", "wait": long, "until": "SYN"}
    script(bed, "another name over the one that was looked at", [
        first, data(good[:at], 1, wait=short), data(bad[:at], 1, wait=short), data(good[at:], 1 + at, wait=long, until_bytes=1), data(bad, 1, wait=short)] +
           closing, to=f"{true}.wild.test")
    script(bed, "one name that goes on as another", [first, data(other[:at], 1, wait=short), data(bad[at - 4:], at - 3, wait=long)] + closing, arrives=["tcp"],
           to=f"{mixed}.wild.test")


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
    if bed.guest.has_network and (descriptors := bed.guest.broker_descriptors()) > 1024 + 64:
        bed.fault(f"the broker has {descriptors} descriptors")
    bed.guest.do([{"op": "drop", "key": "crowd"}])
    # From addresses of ports that nobody has; the kernel inside resets what is answered.
    steps = [{"flags": "S", "from": 1024 + i} for i in range(3000)]
    bed.look([({"op": "script", "to": [address, port], "from": 1, "steps": steps + [{"wait": bed.silence}]}, {"no answer", "refused", "silent", "answered"})],
             "SYNs", may=[f"dns {name}", f"tcp {PLAIN}:{port}"])
    # What the kernel inside never asked for it resets when it hears of it again, and its own SYNs that were lost it
    # repeats: within seconds.
    if bed.policy != "none":
        bed.wait_until(lambda: bed.guest.do([{"op": "tcp", "name": "allowed.test", "port": 443, "wait": 1}])[0]["saw"] == "silent")
        bed.look([], "until it is served", may=["dns allowed.test", f"tcp {ALLOWED}:443", f"dns {name}", f"tcp {PLAIN}:{port}"])
