"""Rows about TLS: on a connection that was made for a name, that name is spoken to, or nobody."""

import os

import world
from bed import b64
from hellos import ECH, ESNI, PADDING, hello, names, records
from table import row

ALLOWED = world.ADDRESSES["allowed.test"]
WILD = world.ADDRESSES["wild.test"]
NAME = "a.wild.test"


def greet(bed, pieces, to=None, **more):
    """Sends a hello to a.wild.test, or somewhere else; a server that takes it answers."""
    pieces = [pieces] if isinstance(pieces, bytes) else pieces
    target = {"to": to} if to else {"name": NAME, "port": 443}
    return {"op": "tcp", **target, "send": [b64(piece) for piece in pieces], **more}


def look(bed, cases):
    """`cases` are (about, op, whether it gets through); each has its own look at the ledger."""
    for about, op, passes in cases:
        arrives = {f"dns {NAME}", f"tcp {WILD}:443"} | ({f"data {WILD}:443"} if passes else set())
        good = "answered" if passes else "closed"
        bed.look([(op, bed.by("NXDOMAIN", good, good))], about, bed.by([], arrives, arrives))


@row("B30", "TLS without a server name", "closed before a byte leaves, but to an address that is listed as such")
def no_server_name(bed):
    token = bed.token().encode()
    look(bed, [("no name", greet(bed, records(hello(b"", (PADDING, token), server_name=None))), False),
               ("an empty list", greet(bed, records(hello(b"", (PADDING, token), server_name=(0, b"\0\0")))), False),
               ("an empty name", greet(bed, records(hello(b"", (PADDING, token)))), False)])
    arrives = [f"tcp {world.WEB}:443", f"data {world.WEB}:443"]
    bed.look([(greet(bed, records(hello(b"", server_name=None)), [world.WEB, 443]), bed.by("refused", "answered", "answered"))], "an address",
             bed.by([], arrives, arrives))


@row("B31", "TLS for another name than the connection's, listed or not", "closed before a byte leaves")
def other_server_name(bed):
    token = bed.token()
    others = ["evil.test", f"{token}.evil.test", "allowed.test", "b.wild.test", "wild.test", "xa.wild.test", "a.wild.test.evil.test", "a.wild.tes"]
    look(bed, [(name, greet(bed, records(hello(name.encode()))), False) for name in others])
    look(bed, [("its own", greet(bed, records(hello(NAME.encode()))), True)])


@row("B32", "a listed name in TLS to an address of somebody else", "a reset; where the address is listed as such, its bytes pass as "
     "they are")
def listed_name_elsewhere(bed):
    token = bed.token(arrives=bed.policy == "all").encode()
    evil = world.ADDRESSES["evil.test"]
    arrives = [f"tcp {evil}:443", f"data {evil}:443"]
    bed.look([(greet(bed, records(hello(b"allowed.test", (PADDING, token))), [evil, 443]), bed.by("refused", "refused", "answered"))], "not listed",
             bed.by([], [], arrives))
    arrives = [f"tcp {world.WEB}:443", f"data {world.WEB}:443"]
    bed.look([(greet(bed, records(hello(b"evil.test")), [world.WEB, 443]), bed.by("refused", "answered", "answered"))], "listed",
             bed.by([], arrives, arrives))


@row("B33", "a ClientHello in single bytes, in many records, of 20 KiB, with two names, in other spellings", "the right name passes, all "
     "others are closed; never taken for one without a name")
def hellos_of_all_kinds(bed):
    good, evil = hello(NAME.encode()), hello(b"evil.test")
    big = (PADDING, bytes(20 * 1024))
    # Shares of the size that hybrid key exchanges have, of a group that there is not.
    shares = (0x7a7a, os.urandom(1300))
    token = bed.token().encode()
    cut = records(good)
    look(bed, [
        ("single bytes", greet(bed, [cut[at:at + 1] for at in range(len(cut))]), True),
        ("records of 1 byte", greet(bed, records(good, 1)), True),
        ("records of 3 bytes, in pieces", greet(bed, [records(good, 3)[at:at + 100] for at in range(0, len(records(good, 3)), 100)]), True),
        ("20 KiB", greet(bed, records(hello(NAME.encode(), big))), True),
        ("a large share", greet(bed, [records(hello(NAME.encode(), shares))[at:at + 700] for at in (0, 700, 1400)]), True),
        ("upper case", greet(bed, records(hello(b"A.WILD.Test"))), True),
        ("another, in single bytes", greet(bed, [records(evil)[at:at + 1] for at in range(len(records(evil)))]), False),
        ("another, in records of 1 byte", greet(bed, records(evil, 1)), False),
        ("another, behind 20 KiB", greet(bed, records(hello(b"", big, names((0, b"evil.test")), server_name=None))), False),
        ("its name twice, in two extensions", greet(bed, records(hello(NAME.encode(), names((0, NAME.encode()))))), False),
        ("its name, then another extension", greet(bed, records(hello(NAME.encode(), names((0, token + b".evil.test"))))), False),
        ("its name and another in one", greet(bed, records(hello(b"", server_name=names((0, NAME.encode()), (0, b"evil.test"))))), False),
        ("another and its name in one", greet(bed, records(hello(b"", server_name=names((0, b"evil.test"), (0, NAME.encode()))))), False),
        ("a name with a zero", greet(bed, records(hello(NAME.encode() + b"\0.evil.test"))), False),
        ("a zero behind it", greet(bed, records(hello(NAME.encode() + b"\0"))), False),
        ("an address", greet(bed, records(hello(WILD.encode()))), False),
        ("a name of 300", greet(bed, records(hello(b"a." * 145 + b"wild.test"))), False),
        ("a record that is none in the middle", greet(bed, records(good[:100]) + b"\x17\3\1\0\1x" + records(good[100:])), False),
        ("an empty record", greet(bed, b"\x16\3\1\0\0" + records(good)), False),
        ("SSL 2", greet(bed, b"\x80\x2e\1\3\1\0\x15\0\0\0\x10" + os.urandom(37)), False),
        ("no TLS", greet(bed, b"GET / HTTP/1.1\r\nHost: a.wild.test\r\n\r\n" + token), False),
    ])


@row("B34", "encrypted ClientHello: real, pretended, the old draft", "no record that offers it; the outer name counts")
def encrypted_hellos(bed):
    bed.look([({"op": "dns_many", "questions": [["a.wild.test", 64], ["a.wild.test", 65], ["_esni.a.wild.test", 16]]},
               bed.by(lambda result: result["saw"] == {"NXDOMAIN": 3}, *[lambda result: result["saw"] == {"NODATA": 3}] * 2))], "records")
    # RFC 9849: the outer one; a cipher suite, a number, a key and what is hidden.
    hidden = (ECH, b"\0\0\1\0\1\x2a\0\x20" + os.urandom(32) + b"\0\xb0" + os.urandom(176))
    old = (ESNI, b"\x13\1\0\x1d\0\x20" + os.urandom(32) + b"\0\x20" + os.urandom(32) + b"\0\x80" + os.urandom(128))
    look(bed, [("its own name outside", greet(bed, records(hello(NAME.encode(), hidden))), True),
               ("another name outside", greet(bed, records(hello(b"cloudflare-ech.com", hidden))), False),
               ("no name outside", greet(bed, records(hello(b"", hidden, server_name=None))), False),
               ("the old draft without a name", greet(bed, records(hello(b"", old, server_name=None))), False),
               ("the old draft with another name", greet(bed, records(hello(b"evil.test", old))), False)])


@row("B45", "a server with a certificate of another name, of the past, of nobody, and with old TLS", "the client inside sees it and ends; "
     "what it wanted to say stays")
def bad_certificates(bed):
    for kind, saw in (("other", "untrusted"), ("expired", "untrusted"), ("nobody", "untrusted"), ("old", "no TLS")):
        name = f"{kind}.wild.test"
        arrives = {f"dns {name}", f"tcp {WILD}:443", f"data {WILD}:443"}
        bed.look([(bed.https(name, bed.token()), bed.by("NXDOMAIN", saw, saw))], kind, bed.by([], arrives, arrives))
