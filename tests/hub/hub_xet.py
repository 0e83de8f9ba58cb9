"""Xet storage for the Hub of the tests: what hf_xet itself writes and reads in a folder, `local://FOLDER`.

A client that gets this address as that of the storage puts its files there; the Hub finds them by their SHA-256 in the
shards (https://huggingface.co/docs/xet/shard), as a commit names them.
"""

import hashlib
import struct
import tempfile
import time
from pathlib import Path


class XetStorage:
    """In a folder; holds what was uploaded by Xet."""

    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        self.address = f"local://{self.folder}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def connection(self):
        """What a client is told: the headers of a token, and the same as JSON."""
        end = int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": self.address, "X-Xet-Access-Token": "t", "X-Xet-Token-Expiration": str(end)}
        return {"casUrl": self.address, "accessToken": "t", "exp": end}, headers

    def files(self):
        """SHA-256 to (Xet's hash, size)."""
        found = {}
        for shard in self.folder.glob("xet/xorbs/shards/*.mdb"):
            data, at = shard.read_bytes(), 48  # after the header; all entries are 48 bytes long
            while data[at : at + 32] != b"\xff" * 32:
                flags, segments = struct.unpack_from("<II", data, at + 32)
                size = sum(struct.unpack_from("<I", data, at + 48 * i + 36)[0] for i in range(1, segments + 1))
                end = at + 48 * (1 + segments * (1 + (flags >> 31)))
                if flags >> 30 & 1:
                    found[_hexadecimal(data[end : end + 32])] = (_hexadecimal(data[at : at + 32]), size)
                    end += 48
                at = end
        return found

    def get(self, sha256):
        """The content of a file, or None."""
        import hf_xet

        if sha256 not in (files := self.files()):
            return None
        token = {"token": "t", "token_expiry_unix_secs": int(time.time()) + 3600}
        with tempfile.TemporaryDirectory() as folder:
            with hf_xet.XetSession().new_file_download_group(endpoint=self.address, **token) as group:
                group.start_download_file(hf_xet.XetFileInfo(*files[sha256]), f"{folder}/file")
            content = Path(folder, "file").read_bytes()
        assert hashlib.sha256(content).hexdigest() == sha256
        return content


def _hexadecimal(value):
    """As Xet writes a hash: four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", value))
