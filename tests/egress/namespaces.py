"""Network namespaces of the test's own: made, entered by a thread or a child process, removed."""

import contextlib
import ctypes
import os
import subprocess

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000


def command(*words):
    """Runs a program whose failure is the test's own."""
    done = subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def set_namespace(descriptor):
    if LIBC.setns(descriptor, CLONE_NEWNET) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "setns")


class Namespace:
    def __init__(self, name):
        self.name = name
        command("ip", "netns", "add", name)
        self.descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        self.ip("link", "set", "lo", "up")

    def ip(self, *words):
        command("ip", "-n", self.name, *words)

    @contextlib.contextmanager
    def entered(self):
        """The calling thread is in it; a socket stays in the namespace that it was made in."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        set_namespace(self.descriptor)
        try:
            yield
        finally:
            set_namespace(before)
            os.close(before)

    def words(self, *words):
        """A command line that runs another one in it. Its /sys stays the caller's."""
        return ["nsenter", f"--net=/run/netns/{self.name}", "--", *map(str, words)]

    def remove(self):
        os.close(self.descriptor)
        command("ip", "netns", "del", self.name)
