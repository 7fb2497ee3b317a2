"""The world outside and the host: two network namespaces and one cable between them.

The world owns every address there is, public or not, and whoever gets there is answered: a DNS
server whose answers a row can script, HTTPS and HTTP servers, and a listener on every other TCP port. So
what does not arrive was stopped before. The host is where the VMM and the broker run; its canaries
listen on addresses of its own.
"""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import ssl
import struct
import tempfile
import threading
import time

from ledger import Ledger, question_name
from namespaces import Namespace, command

HOST = "93.184.215.2"
GATEWAY = "93.184.215.1"
HOST6 = "2606:2800:220:1::2"
GATEWAY6 = "2606:2800:220:1::1"
RESOLVER = "8.8.8.8"
WEB = "93.184.216.34"
ADDRESSES = {
    "allowed.test": "93.184.216.40",
    "wild.test": "93.184.216.41",
    "plain.test": "93.184.216.42",
    "evil.test": "93.184.216.66",
    "web.test": "93.184.216.43",
}
BANNER = b"world\n"
SINK_PORT = 7  # any port: the others are led there
CANARY_PORTS = [22, 80, 443, 2375, 8080, 8099]
SO_ORIGINAL_DST = 80
IP_PKTINFO = 8


def authority(folder):
    """A private root with certificates that are good, of another name, of the past, and of nobody."""
    folder = pathlib.Path(folder)

    def openssl(*words):
        return command("openssl", *words)

    def key(name):
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder / f"{name}.key")
        return folder / f"{name}.key"

    (folder / "index").touch()
    (folder / "serial").write_text("01\n")
    (folder / "conf").write_text(
        f"[ca]\ndefault_ca=here\n[here]\nnew_certs_dir={folder}\ndatabase={folder}/index\nserial={folder}/serial\n"
        "default_md=sha256\npolicy=any\nunique_subject=no\ncopy_extensions=copy\n[any]\ncommonName=supplied\n"
        "[root]\nbasicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n")
    openssl("req", "-x509", "-new", "-key", key("root"), "-subj", "/CN=The world's root", "-days", "30",
            "-config", folder / "conf", "-extensions", "root", "-out", folder / "root.pem")

    def leaf(name, names, start, end):
        openssl("req", "-new", "-key", key(name), "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}",
                "-out", folder / f"{name}.csr")
        openssl("ca", "-batch", "-config", folder / "conf", "-cert", folder / "root.pem", "-keyfile", folder / "root.key",
                "-in", folder / f"{name}.csr", "-startdate", start, "-enddate", end, "-notext", "-out", folder / f"{name}.pem")

    def moment(days):
        return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + days * 86400))

    names = ",".join([f"DNS:{name},DNS:*.{name}" for name in ADDRESSES] + ["DNS:dns.google", f"IP:{WEB}", "IP:1.1.1.1"])
    leaf("good", names, moment(-1), moment(30))
    leaf("other", "DNS:other.test", moment(-1), moment(30))
    leaf("expired", names, moment(-30), moment(-1))
    openssl("req", "-x509", "-new", "-key", key("nobody"), "-subj", "/CN=nobody", "-addext", f"subjectAltName={names}",
            "-days", "30", "-out", folder / "nobody.pem")


def server_context(folder, name):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/{name}.pem", f"{folder}/{name}.key")
    context.sni_callback = lambda connection, asked, _: setattr(connection, "asked_name", asked)
    return context


def encode_name(name):
    parts = [label.encode("latin-1") for label in name.rstrip(".").split(".") if label]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


class World:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="hutch-egress-")
        self.host = self.world = None
        self.ledger = Ledger(RESOLVER)
        self.scripts = {}
        self.asked = {}
        self.dns_is_dead = False
        self.listeners = []
        self.dns = None
        try:
            self.open()
        except BaseException:
            self.close()
            raise

    def open(self):
        authority(self.folder)
        self.root = pathlib.Path(self.folder, "root.pem").read_text()
        self.host = Namespace(f"hutch-host-{os.getpid()}")
        self.world = Namespace(f"hutch-world-{os.getpid()}")
        command("ip", "link", "add", "host0", "netns", self.host.name, "type", "veth", "peer", "name", "world0",
                "netns", self.world.name)
        for space, link, address, address6 in ((self.host, "host0", HOST, HOST6), (self.world, "world0", GATEWAY, GATEWAY6)):
            space.ip("addr", "add", f"{address}/30", "dev", link)
            space.ip("addr", "add", f"{address6}/126", "dev", link, "nodad")
            space.ip("link", "set", link, "up")
        self.host.ip("route", "add", "default", "via", GATEWAY)
        self.host.ip("-6", "route", "add", "default", "via", GATEWAY6)
        # In the main table, behind the cable's own prefix: all else is here.
        self.world.ip("route", "add", "local", "default", "dev", "lo", "table", "main")
        self.world.ip("-6", "route", "add", "local", "default", "dev", "lo", "table", "main")
        rules = pathlib.Path(self.folder, "rules")
        rules.write_text(
            "table inet world {\n chain arrive {\n  type nat hook prerouting priority dstnat;\n"
            f'  iifname "world0" tcp dport != {{ 53, 80, 443 }} redirect to :{SINK_PORT};\n }}\n}}\n')
        command(*self.world.words("nft", "-f", rules))
        with self.world.entered():
            # A sandbox's broker comes from one address, a thousand times within a minute.
            self.ledger.watch("world0")
            self.serve(53, self.answer_stream)
            self.serve(80, self.answer_http)
            self.serve(443, self.answer_https)
            self.serve(SINK_PORT, self.answer_sink)
            self.dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.dns.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            self.dns.bind(("0.0.0.0", 53))
            self.start(self.answer_dns)
        with self.host.entered():
            self.ledger.watch("lo", prefix="host ")
            for address, port in [(address, port) for address in ("127.0.0.1", HOST) for port in CANARY_PORTS]:
                self.canary(socket.create_server((address, port), backlog=64))
            for name in ("\0hutch-canary", f"{self.folder}/canary"):
                listener = socket.socket(socket.AF_UNIX)
                listener.bind(name)
                listener.listen()
                self.canary(listener)
        self.contexts = {name: server_context(self.folder, name) for name in ("good", "other", "expired", "nobody")}
        old = server_context(self.folder, "good")
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.set_ciphers("ALL:@SECLEVEL=0")
        self.contexts["old"] = old

    def start(self, target, *arguments):
        threading.Thread(target=target, args=arguments, daemon=True).start()

    def canary(self, listener):
        self.listeners.append(listener)
        self.start(self.watch_canary, listener)

    def watch_canary(self, listener):
        while True:
            try:
                _, address = listener.accept()
            except OSError:
                return
            self.ledger.note(f"host canary {listener.getsockname()} {address}")

    def serve(self, port, answer):
        listener = socket.socket(socket.AF_INET6)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", port))
        listener.listen(4096)
        self.listeners.append(listener)
        self.start(self.accept, listener, answer)

    def accept(self, listener, answer):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self.attend, args=(connection, answer), daemon=True).start()

    @staticmethod
    def attend(connection, answer):
        connection.settimeout(60)
        try:
            with connection:
                answer(connection)
        except (OSError, ValueError):
            pass  # whoever asked has gone, or spoke nonsense: the ledger has seen it

    # --- Servers -------------------------------------------------------------------------------

    @staticmethod
    def answer_sink(connection):
        """Speaks first, echoes, and ends when the other side does."""
        connection.sendall(BANNER)
        while data := connection.recv(65536):
            connection.sendall(data)

    @staticmethod
    def read_head(connection):
        head = b""
        while b"\r\n\r\n" not in head and len(head) < 65536:
            data = connection.recv(65536)
            if not data:
                break
            head += data
        return head

    def answer_http(self, connection, scheme="http"):
        while head := self.read_head(connection):
            lines = head.decode("latin-1").split("\r\n")
            host = next((line.split(":", 1)[1].strip() for line in lines[1:] if line.lower().startswith("host:")), "")
            self.ledger.note(f"{scheme} {host}", head)
            path = lines[0].split(" ")[1] if lines[0].count(" ") >= 2 else "/"
            length = re.search(r"\r\ncontent-length: *(\d+)", head.decode("latin-1").lower())
            missing = int(length.group(1)) - (len(head) - head.index(b"\r\n\r\n") - 4) if length else 0
            while missing > 0 and (more := connection.recv(min(missing, 65536))):
                missing -= len(more)
            if path.startswith("/redirect?"):
                answer = f"HTTP/1.1 302 Found\r\nLocation: {path[10:]}\r\nContent-Length: 0\r\n\r\n"
            else:
                body = f"hello from {host}\n"
                answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}"
            connection.sendall(answer.encode())

    def answer_https(self, connection):
        # By the first label of the name that is asked for; the name stands in front of the handshake's contexts.
        hello = connection.recv(65536, socket.MSG_PEEK)
        kind = next((kind for kind in ("expired", "other", "nobody", "old") if f"{kind}.".encode() in hello), "good")
        with self.contexts[kind].wrap_socket(connection, server_side=True) as secured:
            self.ledger.note(f"tls {secured.asked_name or ''}")
            self.answer_http(secured, "https")

    def answer_stream(self, connection):
        """DNS over TCP."""
        while size := connection.recv(2):
            query = connection.recv(int.from_bytes(size, "big"))
            answer = self.answer_question(query)
            connection.sendall(struct.pack("!H", len(answer)) + answer)

    def answer_dns(self):
        while True:
            try:
                query, extra, _, address = self.dns.recvmsg(4096, 256)
            except OSError:
                return
            # From the address that was asked.
            info = next((struct.pack("I4s4s", 0, data[8:12], bytes(4)) for level, kind, data in extra
                         if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO)), None)
            answer = None if self.dns_is_dead else self.answer_question(query)
            if answer and info:
                self.dns.sendmsg([answer], [(socket.IPPROTO_IP, IP_PKTINFO, info)], 0, address)

    def script(self, name, answers):
        """`answers(count)` gives the records of a name and of what is below it: [(owner, type, data), ...]; None
        is no such name."""
        self.scripts[name] = answers
        self.asked[name] = 0

    def records(self, name):
        labels = name.split(".")
        for i in range(len(labels)):
            parent = ".".join(labels[i:])
            if parent in self.scripts:
                count, self.asked[parent] = self.asked[parent], self.asked[parent] + 1
                return [(owner or name, kind, data) for owner, kind, data in self.scripts[parent](count)]
        for i in range(len(labels)):
            parent = ".".join(labels[i:])
            if parent in ADDRESSES:
                return [(name, "A", ADDRESSES[parent])]
        # All other names exist, too.
        return [(name, "A", ADDRESSES["evil.test"])]

    def answer_question(self, query):
        name = question_name(query) or ""
        end = 12 + len(encode_name(name)) + 4
        kind = int.from_bytes(query[end - 4:end - 2], "big")
        body, count = b"", 0
        for owner, type_name, data in self.records(name):
            number = {"A": 1, "CNAME": 5, "AAAA": 28}[type_name]
            if number not in (kind, 5):
                continue
            if type_name == "CNAME":
                value = encode_name(data)
            else:
                value = socket.inet_pton(socket.AF_INET if type_name == "A" else socket.AF_INET6, data)
            body += encode_name(owner) + struct.pack("!HHIH", number, 1, 0, len(value)) + value
            count += 1
        return query[:2] + struct.pack("!HHHHH", 0x8580, 1, count, 0, 0) + query[12:end] + body

    # --- Its end -------------------------------------------------------------------------------

    def close(self):
        for listener in self.listeners + [self.dns] * (self.dns is not None):
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # whoever waits in it wakes up
            listener.close()
        self.ledger.close()
        for space in (self.host, self.world):
            if space:
                space.remove()
        shutil.rmtree(self.folder)
