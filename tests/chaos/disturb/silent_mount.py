"""Silent mount: a file system that stops to answer, as a file server that is gone does."""

import ctypes
import errno
import os
import stat
import struct
import subprocess
import threading
import time

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)

# Requests of the protocol, /usr/include/linux/fuse.h.
LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT = 1, 2, 3, 14, 15, 18, 25, 26
INTERRUPT, BATCH_FORGET = 36, 42
ROOT, FILE = 1, 2
DIRECT_IO = 1  # no page cache: each read of the reader is a request
LONG_AGO = int(time.time()) - 3600


class SilentMount:
    """Covers a directory. Use it with `with`; `end` lets every request to it fail, and shows what was below.

    It is a FUSE file system whose program reads no request: whoever opens a file there waits.
    """

    def __init__(self, directory):
        self.directory = directory
        self.is_mounted = False
        self._device = None
        try:
            self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        outcome = _libc.mount(b"silent", os.fsencode(directory), b"fuse", 0, options)
        self.is_mounted = outcome == 0
        if not self.is_mounted:
            os.close(self._device)
            self._device = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def uncover(self):
        """Shows what was below. Requests that wait go on waiting."""
        if self.is_mounted:
            self.is_mounted = False
            subprocess.run(["umount", "--lazy", self.directory], check=True)

    def end(self):
        self.uncover()
        if self._device is not None:
            os.close(self._device)
            self._device = None


class StallingMount(SilentMount):
    """A mount whose only file, `file`, can be opened and read, until its bytes from `stalls_at` on are read.

    From then on it answers nothing, not even that a file is closed.
    """

    def __init__(self, directory, size, stalls_at):
        super().__init__(directory)
        self._size, self._stalls_at = size, stalls_at
        self.has_stalled = threading.Event()
        if self.is_mounted:
            threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while not self.has_stalled.is_set():
            try:
                request = os.read(self._device, 1 << 17)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return  # unmounted
            _, opcode, unique, node = struct.unpack_from("=IIQQ", request)
            if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            outcome = self._answer(opcode, node, request[40:])
            if outcome is None:
                self.has_stalled.set()
                return
            code, body = outcome
            os.write(self._device, struct.pack("=IiQ", 16 + len(body), -code, unique) + body)

    def _answer(self, opcode, node, body):
        if opcode == INIT:
            major, _, readahead, _ = struct.unpack_from("=IIII", body)
            return 0, struct.pack("=IIIIHHIIHH8I", major, 31, readahead, 0, 8, 8, 1 << 16, 1, 0, 0, *[0] * 8)
        if opcode == LOOKUP:
            if body != b"file\0":
                return errno.ENOENT, b""
            return 0, struct.pack("=QQQQII", FILE, 0, 1, 1, 0, 0) + self._attributes(FILE)
        if opcode == GETATTR:
            return 0, struct.pack("=QII", 1, 0, 0) + self._attributes(node)
        if opcode == OPEN:
            return 0, struct.pack("=QII", 0, DIRECT_IO, 0)
        if opcode == READ:
            _, offset, size = struct.unpack_from("=QQI", body)
            if offset + size > self._stalls_at:
                return None
            return 0, b"." * size
        if opcode in (FLUSH, RELEASE):
            return 0, b""
        return errno.ENOSYS, b""

    def _attributes(self, node):
        mode = stat.S_IFDIR | 0o755 if node == ROOT else stat.S_IFREG | 0o644
        times = (LONG_AGO, LONG_AGO, LONG_AGO)
        return struct.pack("=QQQQQQIIIIIIIIII", node, self._size, 0, *times, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
