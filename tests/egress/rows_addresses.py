"""Rows about addresses and ports."""

import packets
import world
from bed import b64, edges, only, tally
from probe import GATEWAY
from table import row

ALLOWED = world.ADDRESSES["allowed.test"]
WILD = world.ADDRESSES["wild.test"]


def talk(bed, to, arrives):
    """Connects to the listener at an address and says a token."""
    return {"op": "tcp", "to": to, "send": [b64(bed.token(arrives).encode())]}


@row("B14", "an address: not listed, listed, listed for another port", "a reset, a connection, a reset")
def literals(bed):
    every, listed = bed.policy == "all", bed.policy == "listed"
    cases = [([world.WEB, 8099], listed), ([world.WEB, 22], listed), ([world.WEB, 65535], listed), (["93.184.216.35", 8099], listed),
             (["93.184.216.35", 8098], False), (["93.184.216.36", 8099], False), (["93.184.216.36", 1], False)]
    opened = [to for to, is_listed in cases if every or is_listed]
    bed.look([(talk(bed, to, to in opened), "answered" if to in opened else "refused") for to, _ in cases],
             arrives=[f"{what} {to[0]}:{to[1]}" for to in opened for what in ("tcp", "data")])


KEPT = ["0.0.0.0/8", "10.0.0.0/16", "10.2.0.0/16", "10.255.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4",
        "240.0.0.0/4"]


@row("B16", "private, link-local, metadata, shared, loopback, multicast and reserved addresses, some of them listed", "a reset or "
     "no answer under every policy; reached in the block alone that the operator has opened")
def kept_addresses(bed):
    addresses = edges(*KEPT) + ["10.0.0.5", "169.254.169.254", "100.64.0.5", "192.168.1.5", "10.0.3.1"]
    # Through the guest's kernel where it sends to such an address at all, and as frames.
    reachable = [address for address in addresses if not address.startswith(("0.", "127.", "10.0.2."))]
    bed.look([({"op": "sweep", "targets": [[address, port] for address in reachable for port in (80, 443)], "wait": 1},
               only("refused", "no network", "no answer", "error EINVAL"))], "connections")
    frames = [b64(packets.syn(address, port, source_port=41000 + i, payload=bed.token().encode()))
              for i, address in enumerate(addresses) for port in (80,)]
    bed.look([({"op": "frames", "frames": frames, "wait": bed.silence}, {"answered", "no answer"})], "frames")
    inside = bed.policy != "none"
    bed.look([(talk(bed, ["10.1.2.3", 8099], inside), "answered" if inside else "refused")], "the opened block",
             ["tcp 10.1.2.3:8099", "data 10.1.2.3:8099"] if inside else [])


@row("B17", "other ports of a host that is listed as `host:443`", "a reset; under *all* a connection, which has to speak HTTP or TLS")
def port_rule(bed):
    address = bed.guest.do([{"op": "dns", "name": "allowed.test", "wait": bed.patience}])[0].get("address") or "198.18.0.9"
    ports = [1, 22, 25, 80, 442, 444, 8080, 8443, 65535]
    if bed.policy != "all":
        bed.look([({"op": "sweep", "targets": [[address, port] for port in ports]}, tally(refused=len(ports)))])
    else:
        tokens = {port: bed.token(arrives=port == 80) for port in (80, 22)}
        bed.look([({"op": "tcp", "to": [address, port], "send": [b64(data.encode())], "wait": bed.patience}, sees) for port, data, sees in (
            (80, f"GET /{tokens[80]} HTTP/1.1\r\nHost: allowed.test\r\n\r\n", "answered"), (22, f"SSH-2.0-{tokens[22]}\r\n", "closed"))],
                 arrives=["dns allowed.test", f"tcp {ALLOWED}:80", f"data {ALLOWED}:80", "http allowed.test", f"tcp {ALLOWED}:22"])
    # No kernel connects to port 0.
    bed.look([({"op": "frames", "frames": [b64(packets.syn(address, 0))], "wait": bed.silence}, {"answered", "no answer"})], "port 0")


@row("B56", "the host's own addresses: by address, listed or not, and by an allowed name", "a reset; the host's listeners hear "
     "nothing")
def hairpin(bed):
    bed.world.script("home.wild.test", lambda _: [(None, "A", world.HOST)])
    bed.world.script("loop.wild.test", lambda _: [(None, "A", "127.0.0.1"), (None, "A", "127.1.2.3")])
    ports = world.CANARY_PORTS
    home, loop = (bed.guest.do([{"op": "dns", "name": name, "wait": bed.patience}])[0].get("address") or "198.18.0.9"
                  for name in ("home.wild.test", "loop.wild.test"))
    targets = [[address, port] for address in (world.HOST, home, loop, GATEWAY) for port in ports]
    bed.look([({"op": "sweep", "targets": targets}, tally(refused=len(targets)))],
             arrives=bed.by([], *[["dns home.wild.test", "dns loop.wild.test"]] * 2))


@row("B43", "a redirect from an allowed host to one that is not", "the answer comes; the new connection does not exist for the sandbox, "
     "and nobody follows for it")
def redirect(bed):
    every, listed = bed.policy == "all", bed.policy != "none"
    token, followed = bed.token(arrives=listed), bed.token(arrives=every)
    web = world.ADDRESSES["web.test"]
    path = f"/redirect?http://evil.test/{token}"
    result = bed.look([({"op": "tcp", "name": "web.test", "port": 80, "expect": 30, "send": [
        b64(f"GET {path} HTTP/1.1\r\nHost: web.test\r\n\r\n".encode())]}, "answered" if listed else "NXDOMAIN")], "the redirect",
                      ["dns web.test", f"tcp {web}:80", f"data {web}:80", "http web.test"] if listed else [])[0]
    if listed and bed.guest.has_network and b"302" not in bed.received(result):
        bed.fault(f"no redirect came: {bed.received(result)}")
    evil = world.ADDRESSES["evil.test"]
    bed.look([({"op": "tcp", "name": "evil.test", "port": 80, "send": [
        b64(f"GET /{followed} HTTP/1.1\r\nHost: evil.test\r\n\r\n".encode())]}, "answered" if every else "NXDOMAIN")], "what it names",
             ["dns evil.test", f"tcp {evil}:80", f"data {evil}:80", "http evil.test"] if every else [])
