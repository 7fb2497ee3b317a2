"""A small Internet of the tests' own, on this host's loopback: names, web servers, a git repository
and three package registries, for guests whose policy lets them reach it.

Every name under .test, and example.com, leads here; what was looked up and asked for is kept. All servers take free
ports. Where guests run in the emulated machine, this host is 10.0.2.2 to it (docs/emulated-machine.md).
"""

import base64
import gzip
import hashlib
import http.server
import io
import json
import os
import pathlib
import socket
import socketserver
import ssl
import struct
import subprocess
import tarfile
import threading
import time
import zipfile

import harness

NAMES = ["plain.test", "git.test", "pypi.test", "npm.test", "deno.test", "apt.test", "other.test"]


class Internet:
    """`folder` is for its files. `address` is where a broker finds it."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.address = "127.0.0.1" if harness.runs_on_kvm() else "10.0.2.2"
        self.lookups, self.requests = [], []
        self.files = {}  # (host, path) -> (type, bytes)
        self.authority = self._certificates()
        self._dns = socketserver.ThreadingUDPServer(("127.0.0.1", 0), _handler(_Lookup, self))
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(_Request, self))
        self._https = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(_Request, self))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        self._https.socket = context.wrap_socket(self._https.socket, server_side=True, do_handshake_on_connect=False)
        for server in (self._dns, self._http, self._https):
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server in (self._dns, self._http, self._https):
            server.shutdown()
            server.server_close()

    @property
    def http_port(self):
        return self._http.server_address[1]

    @property
    def https_port(self):
        return self._https.server_address[1]

    @property
    def dns(self):
        return f"{self.address}:{self._dns.server_address[1]}"

    @property
    def block(self):
        """The block of addresses that it lies in, for --open-block."""
        return f"{self.address}/32"

    def words(self, *hosts):
        """What `hutch run` wants to be told to reach these hosts of it."""
        result = ["--open-block", self.block, "--dns", self.dns]
        for host in hosts:
            result += ["--allow-net", host]
        return result

    def publish(self, host, path, body, kind="application/octet-stream"):
        self.files[(host, path)] = (kind, body if isinstance(body, bytes) else body.encode())

    def _certificates(self):
        """A certificate authority, and a certificate of it for all names; the authority in PEM."""
        def openssl(*words):
            subprocess.run(["openssl", *words], cwd=self.folder, check=True, stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        names = ",".join(f"DNS:{name}" for name in NAMES)
        (self.folder / "server.extensions").write_text(f"subjectAltName={names}\n")
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=Tests",
                "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=tests")
        openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", "server.extensions", "-out", "server.pem")
        return (self.folder / "ca.pem").read_text()

    # --- What real clients want -------------------------------------------------------------------

    def publish_git(self, files):
        """https://git.test:PORT/project.git"""
        work = self.folder / "work"
        work.mkdir()
        for name, text in files.items():
            (work / name).write_text(text)
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "init.defaultBranch=main"]
        for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
            subprocess.run(["git", *identity, *words], cwd=work, check=True)
        subprocess.run(["git", "clone", "-q", "--bare", work, self.folder / "project.git"], check=True)

    def publish_python(self, name, version, text):
        """A wheel of one module, in an index at https://pypi.test:PORT/simple/"""
        wheel = io.BytesIO()
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{name}.py", text)
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        file = f"{name}-{version}-py3-none-any.whl"
        self.publish("pypi.test", f"/files/{file}", wheel.getvalue())
        self.publish("pypi.test", f"/simple/{name}/", f'<a href="/files/{file}">{file}</a>', "text/html")

    def publish_node(self, name, version, text):
        """A package at https://npm.test:PORT/"""
        manifest = {"name": name, "version": version, "main": "index.js"}
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for file, content in (("package.json", json.dumps(manifest)), ("index.js", text)):
                _add(archive, f"package/{file}", content.encode())
        body = packed.getvalue()
        path = f"/{name}/-/{name}-{version}.tgz"
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(body).digest()).decode()
        manifest["dist"] = {"tarball": f"https://npm.test:{self.https_port}{path}", "integrity": integrity}
        self.publish("npm.test", path, body)
        self.publish("npm.test", f"/{name}", json.dumps(
            {"name": name, "dist-tags": {"latest": version}, "versions": {version: manifest}}), "application/json")

    def publish_debian(self, name, version, files):
        """A package in a repository at http://apt.test:PORT/ ./"""
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Tests <test@example.com>\nDescription: a test\n"
        parts = []
        for content in ({"./control": control}, {f"./{path}": text for path, text in files.items()}):
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.GNU_FORMAT) as archive:
                for path, text in content.items():
                    _add(archive, path, text.encode())
            parts.append(packed.getvalue())
        package = b"!<arch>\n"
        for file, body in (("debian-binary", b"2.0\n"), ("control.tar.gz", parts[0]), ("data.tar.gz", parts[1])):
            package += f"{file:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n".encode() + body + b"\n" * (len(body) % 2)
        file = f"{name}_{version}_all.deb"
        index = control + f"Filename: ./{file}\nSize: {len(package)}\nSHA256: {hashlib.sha256(package).hexdigest()}\n\n"
        packed = gzip.compress(index.encode())
        self.publish("apt.test", f"/{file}", package)
        self.publish("apt.test", "/Packages.gz", packed)
        lines = "".join(f" {hashlib.sha256(body).hexdigest()} {len(body)} {path}\n"
                        for path, body in (("Packages", index.encode()), ("Packages.gz", packed)))
        self.publish("apt.test", "/Release", f"Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n{lines}")


def _add(archive, path, body):
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(body), 0o644
    archive.addfile(entry, io.BytesIO(body))


def _handler(base, internet):
    return type(base.__name__, (base,), {"internet": internet})


class _Lookup(socketserver.BaseRequestHandler):
    """Answers questions for addresses of *.test with the address of all of it."""

    def handle(self):
        query, sender = self.request
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode("latin-1"))
            at += query[at] + 1
        kind = struct.unpack(">H", query[at + 1:at + 3])[0]
        name = ".".join(labels).lower()
        self.internet.lookups.append(name)
        known = name.endswith(".test") or name == "example.com"
        answer = b""
        if known and kind == 1:
            answer = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(self.internet.address)
        flags = 0x8180 | (0 if known else 3)
        head = query[:2] + struct.pack(">HHHHH", flags, 1, bool(answer), 0, 0)
        sender.sendto(head + query[12:at + 5] + answer, self.client_address)


class _Request(http.server.BaseHTTPRequestHandler):
    """Files by host and path; /echo/SIZE bytes, /endless ones; what git wants, from git itself."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer(b"")

    def do_POST(self):
        self._answer(self._body())

    def do_PUT(self):
        self._answer(self._body())

    def _body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, body):
        host = self.headers.get("Host", "").split(":")[0]
        self.internet.requests.append((self.command, host, self.path, len(body)))
        path, _, query = self.path.partition("?")
        path = path.replace("/./", "/")  # as apt writes it for a flat repository
        if host == "git.test":
            return self._git(path, query, body)
        if path.startswith("/echo/"):
            return self._send(200, "text/plain", b"x" * int(path[6:]))
        if path == "/endless":
            return self._endless()
        if path == "/size":
            return self._send(200, "text/plain", b"%d\n" % len(body))
        if path == "/elsewhere":
            return self._send(302, "text/plain", b"", [("Location", f"http://other.test:{self.server.server_address[1]}/echo/5")])
        kind, content = self.internet.files.get((host, path), (None, b"not here\n"))
        self._send(200 if kind else 404, kind or "text/plain", content)

    def _endless(self):
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(1000))
                time.sleep(0.1)
        except OSError:
            self.close_connection = True

    def _git(self, path, query, body):
        environment = {
            **os.environ, "GIT_PROJECT_ROOT": str(self.internet.folder), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
            "QUERY_STRING": query, "REQUEST_METHOD": self.command, "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)), "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", "")}
        output = subprocess.run(["git", "http-backend"], input=body, stdout=subprocess.PIPE, env=environment).stdout
        head, _, content = output.partition(b"\r\n\r\n")
        fields = [tuple(line.split(": ", 1)) for line in head.decode().split("\r\n") if ": " in line]
        status = next((int(value.split()[0]) for name, value in fields if name == "Status"), 200)
        kind = next((value for name, value in fields if name == "Content-Type"), "text/plain")
        self._send(status, kind, content)

    def _send(self, status, kind, content, more=()):
        self.send_response(status)
        for name, value in [("Content-Type", kind), ("Content-Length", str(len(content))), *more]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
