"""Images out of an object store: how fast a reading task reads, for row groups of several sizes.

    uv run benchmarks/store.py

Photographs of 256x256 (JPEG, 20 kB) in many shards, as a large data set has them, behind a server
of this machine's own that answers each request as late as an object store does. The images of half
the classes are read in the order of an epoch, as they are for training, and not decoded. The last
lines have one reader in place of many.
"""

import argparse
import multiprocessing
import os
import re
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

from ingest import write_photographs

from raytransfer.data import deal, reader, shards
from raytransfer.data.manifest import Manifest
from raytransfer.data.order import Sequence

BATCH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16_000)
    parser.add_argument("--groups", type=int, nargs="*", default=[25, 50, 100, 200, 400])
    parser.add_argument("--milliseconds", type=float, default=30, help="until a request's answer")
    options = parser.parse_args()
    print(f"{options.images} images; answers after {options.milliseconds:g} ms")
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder, "photographs"), options.images, 256, 256, 90)
        # Shards as small as this are as many as a large data set has of the usual size.
        deal.SHARD_BYTES = 8 * 2**20
        ours, theirs = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(
            target=serve, args=(folder, options.milliseconds / 1000, theirs), daemon=True
        )
        server.start()
        port = ours.recv()
        print("  rows of a group  readers  images/s  requests  MB read  MB of 32 groups")
        for readers in (reader.READERS, 1):
            for group in options.groups:
                deal.ROW_GROUP = shards.ROW_GROUP = group
                dest = Path(folder, f"shards{group}")
                manifest = shards.prepare(Path(folder, "photographs"), dest, size=None)
                address = f"scheme=http&endpoint_override=127.0.0.1%3A{port}&region=us-east-1"
                manifest = replace(manifest, folder=f"s3://key:word@{dest.name}?{address}")
                measure(manifest, readers, ours)


def measure(manifest: Manifest, readers: int, server: Connection) -> None:
    """One epoch of half the classes."""
    reader.READERS = readers
    half = tuple(range(0, len(manifest.classes), 2))
    images = reader.Images(manifest, "train", half)
    count = len(images.labels)
    order = Sequence(0, images.groups, images.whole).rows(0, count)
    server.send("count")
    server.recv()
    start = time.perf_counter()
    for first in range(0, count, BATCH):
        images.encoded(order[first : first + BATCH])
    seconds = time.perf_counter() - start
    server.send("count")
    requests, size = server.recv()
    window = (
        32
        * manifest.row_group
        * sum(f.bytes for f in manifest.train)
        / sum(f.rows for f in manifest.train)
    )
    print(
        f"  {manifest.row_group:15} {readers:8} {count / seconds:9,.0f} {requests:9,} "
        f"{size / 1e6:8,.0f} {window / 1e6:16,.0f}"
    )


def serve(folder: str, seconds: float, asked: Connection) -> None:
    """Files by S3's protocol, as much of it as reading them takes: HEAD, and GET of a range."""
    counted = Counter[str]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(False)

        def do_GET(self) -> None:
            self.answer(True)

        def answer(self, whole: bool) -> None:
            time.sleep(seconds)
            path = Path(folder, self.path.partition("?")[0].strip("/"))
            size = path.stat().st_size
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            first, last = map(int, found.groups()) if found else (0, size - 1)
            last = min(last, size - 1)
            self.send_response(206 if found else 200)
            self.send_header("Content-Length", str(last + 1 - first))
            self.send_header("Last-Modified", formatdate(path.stat().st_mtime, usegmt=True))
            if found:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.end_headers()
            counted["requests"] += 1
            if whole:
                counted["bytes"] += last + 1 - first
                with path.open("rb") as file:
                    while first <= last:
                        first += os.sendfile(
                            self.wfile.fileno(), file.fileno(), first, last + 1 - first
                        )

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 256

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asked.send(server.server_port)
    with suppress(EOFError):
        while asked.recv():
            asked.send((counted["requests"], counted["bytes"]))
            counted.clear()


if __name__ == "__main__":
    main()
