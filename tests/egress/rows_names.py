"""Rows about names: what a lookup carries out, what it answers, and what a name may come to stand for."""

import base64
import random
import struct

import world
from bed import b64, tally
from ledger import new_token
from table import row

ALLOWED = world.ADDRESSES["allowed.test"]
WILD = world.ADDRESSES["wild.test"]


def labels(count, parent):
    return [[f"{new_token()}.{parent}", 1] for _ in range(count)]


def answered_or_throttled(result):
    """Synthetic addresses until there were too many new names; nothing else."""
    return set(result["saw"]) <= {"ADDRESS", "SERVFAIL"} and 0 < result["saw"].get("ADDRESS", 0) and all(
        address.startswith(("198.18.", "198.19.")) for address in result["addresses"])


def not_there(bed, count):
    """What a name that no rule knows gets: it does not exist, and the error says by whose will."""
    def sees(result):
        return result["saw"] == {"NXDOMAIN": count} and result["extended"] == {"15": count}
    return bed.by(sees, sees, answered_or_throttled)


@row("B01", "names with data in their labels, not listed", "NXDOMAIN with the extended error Blocked, under *all* an address of "
     "the sandbox's own; nobody is asked", is_heavy=True)
def labels_of_unlisted_names(bed):
    count = 1000 if bed.level == "library" else 600
    bed.look([({"op": "dns_many", "questions": labels(count, "exfil.test"), "wait": bed.patience}, not_there(bed, count))])


@row("B02", "the same questions to 8.8.8.8, over UDP and TCP", "answered by the sandbox's own network as B01; nothing leaves",
     is_heavy=True)
def questions_to_others(bed):
    count = 100
    wanted = bed.by("NXDOMAIN", "NXDOMAIN", "ADDRESS")
    tries = [({"op": "dns_many", "questions": labels(count, "exfil.test"), "server": world.RESOLVER}, not_there(bed, count))]
    for server in (world.RESOLVER, "1.1.1.1", "10.0.0.5"):
        tries += [({"op": "dns", "name": f"{new_token()}.exfil.test", "server": server, "tcp": True}, wanted) for _ in range(20)]
    bed.look(tries)


@row("B03", "DNS over TLS and QUIC, mDNS, LLMNR, NetBIOS names", "TCP is reset, under *all* it is a connection as any; "
     "no datagram leaves")
def other_name_services(bed):
    token = bed.token()
    connected = bed.by("refused", "refused", "answered")
    arrives = bed.by([], [], ["tcp 1.1.1.1:853"])
    bed.look([({"op": "tcp", "to": ["1.1.1.1", 853]}, connected)], "TLS", arrives)
    targets = [["1.1.1.1", 784], ["1.1.1.1", 853], ["224.0.0.251", 5353], ["224.0.0.252", 5355], ["10.0.2.255", 137],
               ["255.255.255.255", 137], ["8.8.8.8", 5353]]
    bed.look([({"op": "udp", "targets": targets, "data": b64(token.encode()), "wait": bed.silence}, "no answer")], "UDP")


@row("B04", "DNS over HTTPS to a public resolver, by name and by address", "NXDOMAIN and a reset; under *all* a connection "
     "as any")
def dns_over_https(bed):
    by_name, by_address = bed.token(arrives=bed.policy == "all"), bed.token(arrives=bed.policy == "all")
    address = world.ADDRESSES["evil.test"]
    bed.look([(bed.https("dns.google", by_name), bed.by("NXDOMAIN", "NXDOMAIN", "answered")),
              ({"op": "tls", "to": ["1.1.1.1", 443], "sni": None, "root": bed.world.root,
                "send": b64(f"GET /dns-query?{by_address} HTTP/1.1\r\nHost: 1.1.1.1\r\n\r\n".encode())},
               bed.by("refused", "refused", "answered"))],
             arrives=bed.by([], [], {*bed.https_arrives("dns.google", address), "tcp 1.1.1.1:443", "data 1.1.1.1:443", "tls ",
                                     "https 1.1.1.1"}))


@row("B05", "every type of record of a name that is allowed", "an address for A, no data for all others; nobody is asked")
def types(bed):
    questions = [["allowed.test", kind] for kind in range(1, 261) if kind != 41]
    wanted = bed.by(tally(NXDOMAIN=len(questions)), *[tally(ADDRESS=1, NODATA=len(questions) - 1)] * 2)
    bed.look([({"op": "dns_many", "questions": questions}, wanted)])


@row("B06", "data in labels below a wildcard that is allowed, no connection", "addresses of the sandbox's own, and SERVFAIL "
     "after some hundred; nobody is asked", is_heavy=True)
def labels_below_a_wildcard(bed):
    count = 10000 if bed.level == "library" else 1500

    def throttled(result):
        return answered_or_throttled(result) and result["saw"].get("ADDRESS", 0) < 500 + 60 * bed.patience and sum(
            result["saw"].values()) == count
    results = bed.look([({"op": "dns_many", "questions": labels(count, "wild.test")},
                         bed.by(tally(NXDOMAIN=count), throttled, throttled))])
    if bed.policy != "none" and bed.guest.has_network and len(results[0]["addresses"]) != results[0]["saw"].get("ADDRESS", 0):
        bed.fault("two names have one address")


def message(flags=0x0100, questions=1, name=b"\7allowed\4test\0", kind=1, klass=1, more=b"", additional=0):
    return struct.pack("!HHHHHH", 0x4242, flags, questions, 0, 0, additional) + name + struct.pack("!HH", kind, klass) + more


def code(*wanted):
    """That the answer has one of these response codes, None being no answer."""
    def sees(result):
        if not result["answers"]:
            return None in wanted
        return base64.b64decode(result["answers"][0][2])[3] & 15 in wanted
    return sees


FORMERR, NXDOMAIN, NOTIMP = 1, 3, 4


@row("B07", "two questions, answers as questions, other operations and classes, cut off, looped, too long", "FORMERR, NOTIMP or no "
     "answer; the network lives on")
def broken_questions(bed):
    denied = b"\4evil\4test\0\0\1\0\1"
    vectors = [
        ("two questions", message(questions=2, more=denied), code(FORMERR)),
        ("no question", struct.pack("!HHHHHH", 0x4242, 0x0100, 0, 0, 0, 0), code(FORMERR)),
        ("65535 questions", message(questions=65535), code(FORMERR)),
        ("a response", message(flags=0x8180), code(None)),
        ("a status query", message(flags=0x1000), code(NOTIMP)),
        ("an update", message(flags=0x2800), code(NOTIMP)),
        ("class CHAOS", message(klass=3), code(NOTIMP)),
        ("class ANY", message(klass=255), code(NOTIMP)),
        ("a header alone", message()[:12], code(FORMERR)),
        ("half a header", message()[:7], code(None)),
        ("half a name", message()[:18], code(FORMERR)),
        ("a name that points at itself", message(name=b"\xc0\x0c"), code(FORMERR)),
        ("a name that points back and forth", message(name=b"\1a\xc0\x10\xc0\x0c"), code(FORMERR)),
        ("a label of 64", message(name=b"\x40" + b"a" * 64 + b"\0"), code(FORMERR)),
        ("a name of 300", message(name=(b"\x3f" + b"a" * 63) * 5 + b"\0"), code(FORMERR)),
        ("a record that says to be longer than it is", message(additional=1, more=b"\0" + struct.pack("!HHIH", 41, 65535, 0, 65535)),
         code(FORMERR)),
        ("two OPT records", message(additional=2, more=(b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)) * 2), code(FORMERR)),
        ("nothing", b"", code(None)),
        ("1400 bytes of 0xc0", b"\xc0" * 1400, code(None)),
        ("1400 bytes of 0", bytes(1400), code(FORMERR, None)),
    ]
    bed.look([({"op": "udp", "targets": [["10.0.2.2", 53]], "data": b64(data), "wait": bed.silence}, sees, what)
              for what, data, sees in vectors])
    # A length of 64 KiB, of which everything comes, and one of which nothing more comes.
    long = message(additional=1, more=b"\0" + struct.pack("!HHIH", 41, 65535, 0, 65000) + bytes(65000))
    bed.look([({"op": "tcp", "to": ["10.0.2.2", 53], "send": [b64(struct.pack("!H", len(long)) + long)], "expect": 12}, {"answered", "closed"}),
              ({"op": "tcp", "to": ["10.0.2.2", 53], "send": [b64(b"\xff\xff" + b"\xc0" * 65535)], "wait": bed.silence * 2},
               {"answered", "closed", "silent"}),
              ({"op": "tcp", "to": ["10.0.2.2", 53], "send": [b64(b"\0\0" * 1000)], "wait": bed.silence * 2}, {"closed", "silent"})],
             "over TCP")


PRIVATE = ["127.0.0.1", "0.0.0.0", "10.0.0.5", "100.64.0.5", "169.254.169.254", "172.16.0.1", "192.168.1.5", "198.18.0.1", "224.0.0.1",
           "240.0.0.1", "255.255.255.255", world.HOST]
PRIVATE6 = ["::1", "::", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "fe80::1", "fd00:ec2::254", world.HOST6]


def address_of(bed, name):
    result = bed.guest.do([{"op": "dns", "name": name, "wait": bed.patience}])[0]
    return result.get("address") or "198.19.255.254"


@row("B08", "an allowed name that changes between a public and a private address at every question", "connected when it is "
     "public, refused when it is not; the host's own listeners hear nothing")
def rebinding(bed):
    count = 480 // (1 if bed.level == "library" else 4)
    bed.world.script("rebind.wild.test", lambda asked: [
        (None, "A", WILD if asked % 2 == 0 else PRIVATE[asked // 2 % len(PRIVATE)])])
    bed.world.script("six.wild.test", lambda asked: [(None, "AAAA", address) for address in PRIVATE6])
    target = [address_of(bed, "rebind.wild.test"), 443]
    six = [address_of(bed, "six.wild.test"), 443]

    def half(result):
        return result["saw"] == {"connected": count // 2, "refused": count // 2}
    bed.look([({"op": "sweep", "targets": [target] * count, "at_a_time": 16}, bed.by(tally(refused=count), half, half)),
              ({"op": "sweep", "targets": [six] * 4}, tally(refused=4))],
             arrives=bed.by([], *[["dns rebind.wild.test", f"tcp {WILD}:443", "dns six.wild.test"]] * 2))


@row("B09", "chains of CNAMEs, and answers with public and private addresses", "only the public ones are tried; none, refused")
def chains(bed):
    chain = [("c0.wild.test", "CNAME", "c1.evil.test"), ("c1.evil.test", "CNAME", "c2.example.test")]
    scripts = {
        "c0.wild.test": chain + [("c2.example.test", "A", WILD)],
        "c9.wild.test": [("c9.wild.test", "CNAME", "c1.evil.test"), ("c1.evil.test", "A", "169.254.169.254")],
        "local.wild.test": [("local.wild.test", "CNAME", "localhost"), ("localhost", "A", "127.0.0.1")],
        "loop.wild.test": [("loop.wild.test", "CNAME", "loop2.wild.test"), ("loop2.wild.test", "CNAME", "loop.wild.test")],
        "mixed.wild.test": [(None, "A", "10.0.0.5"), (None, "A", "127.0.0.1"), (None, "A", WILD), (None, "A", world.HOST)],
        "private.wild.test": [(None, "A", address) for address in PRIVATE[:8]],
        "nothing.wild.test": [],
    }
    for name, records in scripts.items():
        bed.world.script(name, lambda _, records=records: records)
    good = {"c0.wild.test", "mixed.wild.test"}
    tries, arrives = [], {f"tcp {WILD}:443", f"data {WILD}:443"}
    for name in scripts:
        token = bed.token(arrives=name in good and bed.policy != "none")
        wanted = "answered" if name in good else "refused"
        tries.append((bed.https(name, token), bed.by("NXDOMAIN", wanted, wanted)))
        arrives |= {f"dns {name}"} | ({f"tls {name}", f"https {name}"} if name in good else set())
    bed.look(tries, arrives=bed.by([], arrives, arrives))


BAD_PATTERNS = ["", "*", "*.test", "a.*.b", "*foo.test", "foo*.test", "https://a.test", "a.test/x", "10.0.0.0/8", "a.test:0",
                "a.test:65536", "a.test:+80", "a.test:080", "a.test:", ":443", "127.1", "0x7f.1", "2130706433", "localhost", "*.localhost",
                "a..test", ".a.test", "a.test.", "a b.test", "[::1", "[1.2.3.4]", "2001:db8::1", "a\u3002test", "-a.test"]


@row("B10", "names at the edges of `*.wild.test`, and patterns that are none", "a match by the written rule alone; the pattern is "
     "refused with a reason")
def edges_of_a_wildcard(bed):
    names = {
        "wild.test": False, "xwild.test": False, "wild.test.evil.test": False, "a.b.wild.test": True, "a.wild.test.": True,
        "A.WiLd.TEST": True, "_x.wild.test": True, "wild.test\0": None, "a.wild.test\0": None, "a\0.wild.test": None,
        "a b.wild.test": None, "-a.wild.test": None, "a.wild\u00e3\u0080\u0082test": None, "xn--wld-iua.test": False,
        "a.xn--wld-iua.test": False, "a.wild.test.test": False, "*.wild.test": None,
    }
    tries = []
    for name, matches in names.items():
        # Under `all` every name is one, if it is a host's name.
        listed = "ADDRESS" if matches else "NXDOMAIN"
        tries.append(({"op": "dns", "name": name}, bed.by("NXDOMAIN", listed, "NXDOMAIN" if matches is None else "ADDRESS")))
    bed.look(tries)
    if bed.policy == "listed":
        for pattern in BAD_PATTERNS if bed.level == "library" else BAD_PATTERNS[1:6]:
            if fault := bed.guest.accepts(pattern):
                bed.fault(fault)


@row("B11", "addresses that stand for no name, or stood for one in another sandbox", "a reset", is_heavy=True)
def addresses_of_no_name(bed):
    chosen = random.Random(11)
    names = [f"n{i}.wild.test" for i in range(40)]
    known = bed.guest.do([{"op": "dns_many", "questions": [[name, 1] for name in names], "wait": bed.patience, "keep": True}])[0]
    if bed.policy != "none" and bed.guest.has_network and len(known["addresses"]) != len(names):
        bed.fault(f"only {len(known['addresses'])} names have an address")
    bed.end()
    bed.begin()
    targets = [[f"198.{18 + chosen.randrange(2)}.{chosen.randrange(256)}.{chosen.randrange(256)}", port]
               for port in (443, 80, 8099) for _ in range(150 if bed.level == "library" else 40)]
    targets += [[address, 443] for address in known["addresses"].values()]
    targets += [["198.18.0.0", 443], ["198.18.0.1", 443], ["198.19.255.255", 443]]
    bed.look([({"op": "sweep", "targets": targets}, tally(refused=len(targets)))])


@row("B15", "numbers as names, localhost, names of metadata services, names that spell an address", "NXDOMAIN; what resolves "
     "to a private address is refused")
def numbers_as_names(bed):
    numbers = ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "0x7f000001", "1.2.3.4", "localhost", "a.localhost", "LOCALHOST.",
               "[::ffff:a9fe:a9fe]", "::1", "017700000001"]
    bed.look([({"op": "dns", "name": name}, "NXDOMAIN") for name in numbers])
    spelled = {"metadata.google.internal": "169.254.169.254", "127.0.0.1.nip.io": "127.0.0.1", "10-0-0-5.sslip.io": "10.0.0.5",
               "localtest.me": "127.0.0.1", "instance-data.ec2.internal": "169.254.169.254"}
    for name, address in spelled.items():
        bed.world.script(name, lambda _, address=address: [(None, "A", address)])
    token = bed.token()
    bed.look([({"op": "tcp", "name": name, "port": 80, "send": [b64(f"GET /{token} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())]},
               bed.by("NXDOMAIN", "NXDOMAIN", "refused")) for name in spelled],
             arrives=bed.by([], [], [f"dns {name}" for name in spelled]))
