"""Rows about a sandbox's life: its memory, its policy as it changes, and what happens when a part of it fails."""

import random
import time

import world
from bed import POLICIES, b64, tally
from table import row

ALLOWED = world.ADDRESSES["allowed.test"]
PLAIN = world.ADDRESSES["plain.test"]
MEMORY = {"guest": "the test writes the device's memory itself, at the other level"}


@row("B12", "200,000 names, with connections that stay", "a cap of 4,096; no address stands for another name while somebody may mean the "
     "first", {"guest": "at the rate of new names it takes five hours; the other level has a clock of its own"})
def many_names(bed):
    bed.program("tests/egress/egress_rows", "B12*")


@row("B13", "a snapshot's addresses under another policy", "the same name, or none", {"guest": "no command restores a machine with a network yet"})
def names_of_a_snapshot(bed):
    bed.program("tests/egress/egress_rows", "B13*")


@row("B26", "a frame that is rewritten while it is taken", "what was judged is what is passed on", MEMORY)
def rewritten_frames(bed):
    bed.program("tests/egress/egress_rows", "B26*")
    bed.program("virtio/virtio_test", "*B26*")


@row("B27", "network headers that lie about a frame", "dropped, or read where the frame says so", MEMORY)
def lying_headers(bed):
    bed.program("tests/egress/egress_rows", "B27*")
    bed.program("virtio/virtio_test", "*B27*")


@row("B55", "vsock: the host's ports, other contexts, false senders", "a reset; the agent's port alone, and that once")
def vsock(bed):
    if bed.level == "library":
        # Without a machine: the device's own tests.
        bed.program("virtio/virtio_test", "V21*,V23*")
        return
    chosen = random.Random(55)
    ports = list(range(0, 1100)) + [8080, 65535, 65536, 0xffffffff - 1] + [chosen.randrange(1 << 32) for _ in range(500)]
    targets = [[2, port] for port in ports] + [[cid, port] for cid in (0, 1, 3, 4, 5, 100, 1000, 0xfffffffe) for port in (22, 1024, 2375)]
    parts = [targets[at::16] for at in range(16)]

    def refused(result):
        return set(result["saw"]) <= {"refused", "no network", "no answer"} and sum(result["saw"].values()) > 0
    # A sandbox without a network has its vsock.
    results = bed.guest.do([{"op": "vsock", "targets": part, "wait": 2} for part in parts])
    for result in results:
        if not refused(result):
            bed.fault(f"saw {result}")


def plain(bed, arrives):
    return {"op": "tcp", "name": "plain.test", "port": 8099, "send": [b64(bed.token(arrives).encode())]}


@row("B58", "a policy that changes: hosts go away under connections that are open, 1,000 random changes", "the connection is cut, and the next "
     "attempt follows the new policy; never anything in between", {"guest": "`hutch run` has one policy for its life"}, is_heavy=True)
def changing_policy(bed):
    before = POLICIES[bed.policy]
    bed.guest.set_policy(["plain.test:8099", "allowed.test:443"])
    bed.look([({"op": "hold", "key": "one", "name": "plain.test", "port": 8099}, "answered"), ({"op": "hold", "key": "two", "name": "plain.test", "port": 8099},
                                                                                              "answered")], "two connections",
             ["dns plain.test", f"tcp {PLAIN}:8099"])
    bed.guest.set_policy(["plain.test:8099", "evil.test"])
    bed.look([({"op": "use", "key": "one", "send": b64(bed.token(arrives=True).encode())}, "answered")], "another host goes", [f"data {PLAIN}:8099"])
    start = time.monotonic()
    bed.guest.set_policy(["allowed.test:443"])
    bed.look([({"op": "use", "key": "one"}, "closed"), ({"op": "use", "key": "two", "send": b64(bed.token().encode())}, "closed"),
              (plain(bed, False), "NXDOMAIN")], "their host goes")
    print(f"# cut and refused {(time.monotonic() - start) * 1000:.0f} ms after the change was sent", flush=True)
    # Back, to somewhere else, and gone again: each rule holds from its update on.
    address = world.WEB
    chosen, arrives, wrong, late = random.Random(58), set(), [], 0
    for i in range(1000 if bed.policy == "listed" else 200):
        rules = [rule for rule in (address, f"{address}:{20000 + i}", "93.184.216.35", "*.wild.test", "plain.test:8099") if chosen.random() < 0.3]
        if chosen.random() < 0.05:
            rules = ["all"]
        bed.guest.set_policy(rules)
        port = 20000 + i
        may = bool({address, f"{address}:{port}", "all"} & set(rules))
        op = {"op": "sweep", "targets": [[address, port]], "wait": bed.patience}
        saw = bed.guest.do([op])[0]["saw"]
        if may and saw == {"refused": 1}:
            # The broker hears of it by itself, and may still be at the policy before: what goes away does so at once,
            # what comes has 100 ms.
            time.sleep(0.1)
            late += 1
            saw = bed.guest.do([op])[0]["saw"]
        if saw != {"connected" if may else "refused": 1}:
            wrong.append((i, rules, saw))
        if may:
            arrives.add(f"tcp {address}:{port}")
    print(f"# {late} attempts came before the broker had heard of it", flush=True)
    if wrong:
        bed.fault(f"{len(wrong)} changes were not followed, such as {wrong[:3]}")
    bed.look([], "random changes", arrives)
    bed.guest.set_policy(before)


@row("B59", "no resolver, a broker without descriptors, a broker that is killed", "connections are refused, open ones are reset; nothing passes",
     is_heavy=True)
def failures(bed):
    if bed.policy == "none":
        # Nothing is ever asked of the broker; without it, less.
        bed.guest.kill_broker()
        bed.look([({"op": "tcp", "to": [world.WEB, 8099]}, "refused"), ({"op": "dns", "name": "allowed.test"}, "NXDOMAIN")], "killed")
        return
    to = {"to": [world.WEB, 8099]}
    arrives = [f"tcp {world.WEB}:8099"]
    bed.look([({"op": "hold", "key": "flow", **to}, "answered")], "a connection", arrives)
    bed.world.dns_is_dead = True
    bed.look([(bed.https("allowed.test", bed.token(), wait=60), "refused")], "no resolver", ["dns allowed.test"])
    bed.world.dns_is_dead = False
    bed.look([(bed.https("allowed.test", bed.token(arrives=True)), "answered")], "a resolver again", bed.https_arrives("allowed.test", ALLOWED))

    bed.guest.limit_broker(bed.guest.broker_descriptors())
    bed.look([(bed.https("allowed.test", bed.token()), "refused"), ({"op": "tcp", **to}, "refused")], "no descriptors", may=["dns allowed.test"])
    bed.look([({"op": "use", "key": "flow", "send": b64(bed.token(arrives=True).encode())}, "answered")], "the open connection", [f"data {world.WEB}:8099"])
    bed.guest.limit_broker(1024)
    bed.look([(bed.https("allowed.test", bed.token(arrives=True)), "answered")], "descriptors again", bed.https_arrives("allowed.test", ALLOWED))

    bed.guest.kill_broker()
    bed.look([({"op": "use", "key": "flow"}, "closed")], "killed, the open connection")
    bed.look([(bed.https("allowed.test", bed.token()), "refused"), ({"op": "tcp", **to, "send": [b64(bed.token().encode())]}, "refused")],
             "killed, new connections")
    bed.is_broken = True


@row("B60", "an empty list, an empty pattern, a star", "the empty list allows nothing, the others are refused with a reason")
def empty_lists(bed):
    names = ["allowed.test", "a.wild.test", "evil.test", "test", "a", "example.com"]
    if bed.policy == "none":
        bed.look([({"op": "dns", "name": name}, "NXDOMAIN") for name in names] +
                 [({"op": "sweep", "targets": [[address, 443] for address in (world.WEB, ALLOWED, "8.8.8.8", "198.18.0.2")]}, tally(refused=4))])
        interfaces = bed.guest.do([{"op": "files"}])[0]["interfaces"]
        if bed.level == "guest" and interfaces != ["lo"]:
            bed.fault(f"a sandbox without a network has {interfaces}")
    else:
        for pattern in ("", "*"):
            if fault := bed.guest.accepts(pattern):
                bed.fault(fault)
