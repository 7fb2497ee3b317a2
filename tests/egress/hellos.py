"""ClientHellos: a real one, taken apart and put together otherwise."""

import ssl
import struct

SERVER_NAME, PADDING, ECH, ESNI = 0, 21, 0xfe0d, 0xffce


def handshake(name):
    """What OpenSSL says first."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        pass
    record = outgoing.read()
    return record[5:]


def take_apart(message):
    """(what stands before the extensions, the extensions)"""
    at = 4 + 2 + 32
    at += 1 + message[at]
    at += 2 + int.from_bytes(message[at:at + 2], "big")
    at += 1 + message[at]
    extensions, end = [], at + 2 + int.from_bytes(message[at:at + 2], "big")
    head, at = message[4:at], at + 2
    while at < end:
        kind, size = struct.unpack("!HH", message[at:at + 4])
        extensions.append((kind, message[at + 4:at + 4 + size]))
        at += 4 + size
    return head, extensions


def put_together(head, extensions):
    body = b"".join(struct.pack("!HH", kind, len(data)) + data for kind, data in extensions)
    body = head + struct.pack("!H", len(body)) + body
    return b"\1" + len(body).to_bytes(3, "big") + body


def names(*entries):
    """A server_name extension: (type, name) each."""
    listed = b"".join(struct.pack("!BH", kind, len(name)) + name for kind, name in entries)
    return SERVER_NAME, struct.pack("!H", len(listed)) + listed


def hello(name, *more, server_name=True):
    """A handshake message: `name` (bytes) is its server_name, unless `server_name` is None (none) or an extension; `more` are
    extensions behind it."""
    head, extensions = take_apart(handshake("a.test"))
    extensions = [extension for extension in extensions if extension[0] not in (SERVER_NAME, PADDING)]
    own = [names((0, name))] if server_name is True else [] if server_name is None else [server_name]
    return put_together(head, own + list(more) + extensions)


def records(message, size=16384):
    """In TLS records of at most so many bytes."""
    return b"".join(b"\x16\3\1" + struct.pack("!H", len(message[at:at + size])) + message[at:at + size] for at in range(0, len(message), size))
