"""Disk: a small file system that can be filled up, or where none can be mounted, a limit on the size of the server's files."""

import errno
import resource
import subprocess
import tempfile
from pathlib import Path


class Disk:
    """Use it with `with`. `directory` is where the server's files go; `limits` are those to start the server with."""

    def __init__(self, size="2m"):
        self._held = tempfile.TemporaryDirectory(prefix="oneport-disk-")
        self.directory = Path(self._held.name)
        self._ballast = self.directory / "ballast"
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", self.directory]
        self.is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        self.limits = {} if self.is_mounted else {resource.RLIMIT_FSIZE: (resource.RLIM_INFINITY, resource.RLIM_INFINITY)}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", self.directory], check=True)
        self._held.cleanup()

    def fill(self, pid):
        """Leaves no room, not a byte."""
        if not self.is_mounted:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            return
        with open(self._ballast, "ab", buffering=0) as ballast:
            for size in (1 << 16, 1 << 12, 1):
                try:
                    while ballast.write(b"x" * size) == size:
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self, pid):
        """Gives the room back."""
        if not self.is_mounted:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            return
        self._ballast.unlink()
