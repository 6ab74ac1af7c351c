"""Fetching from a server of the test's own, which speaks the hub's protocol as far as it is needed."""

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from cogvsr_utils import load_benchmark, load_items
from cogvsr_utils.dataset.benchmarks.downloads import SUMS, Downloader, hub_id
from cogvsr_utils.dataset.benchmarks.vsr import VSR

SHA = "a" * 40
HUB = f"/datasets/me/vsr/resolve/{SHA}/"


def png(color):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(file, "PNG")
    return file.getvalue()


def rows(address):
    return [{"image": f"{n}.png", "image_link": f"{address}/{n}.png", "caption": "The cat is left of the dog.",
             "label": 1, "relation": "left of"} for n in range(3)]  # fmt: skip


@pytest.fixture
def served():
    """Files by path, with the requests for them; ``/api/datasets/me/vsr`` describes the data set."""
    files, asked = {}, []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.command, self.path))
            path = self.path.split("?")[0]
            inside = {name.removeprefix(HUB): each for name, each in files.items() if name.startswith(HUB)}
            if path.startswith("/api/datasets/me/vsr/tree"):
                tree = [
                    {"type": "file", "path": name, "size": len(each), "oid": hashlib.sha1(each).hexdigest()}
                    for name, each in inside.items()
                ]
                content = json.dumps(tree).encode()
            elif path.startswith("/api/datasets/me/vsr"):
                content = json.dumps({"id": "me/vsr", "sha": SHA, "siblings": []}).encode()
            elif path in files:
                content = files[path]() if callable(files[path]) else files[path]
            else:
                self.send_error(404)
                return
            self.send_response(200)
            for name, value in (("Content-Length", len(content)), ("X-Repo-Commit", SHA),
                                ("ETag", f'"{hashlib.sha1(content).hexdigest()}"')):  # fmt: skip
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", files, asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def table(served, tmp_path):
    address, files, _ = served
    files |= {"/0.png": png("red"), "/1.png": png("blue"), "/2.png": b"no picture"}
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(address)))
    return path


def test_nothing_is_fetched_unless_asked_for(served, table):
    with pytest.raises(ValueError, match=r"no row .* can be used, such as .*: the picture 0\.png is not below"):
        load_benchmark(VSR, table)
    assert not served[2]


def test_pictures_are_fetched_once_and_what_is_none_is_named(served, table):
    address, files, asked = served
    loaded = load_benchmark(VSR, table, download=True)
    assert len(loaded.items) == 2 and loaded.skipped == [("test.jsonl, row 3", f"{address}/2.png is no picture")]
    assert [Path(item.image).read_bytes() for item in loaded.items] == [png("red"), png("blue")]
    asked.clear()
    assert load_benchmark(VSR, table, download=True).items == loaded.items
    assert [path for _, path in asked] == ["/2.png"]
    files.clear()
    assert len(load_benchmark(VSR, table, download=True).items) == 2
    assert len(load_items(f"vsr:{table}")) == 2  # and without asking, from the folder


def test_several_pictures_are_fetched_at_once_and_one_of_many_rows_once(served, tmp_path):
    address, files, asked = served
    together = threading.Barrier(2, timeout=20)  # each of two pictures is sent only while the other is asked for

    def sent(content):
        together.wait()
        return content

    files |= {"/0.png": lambda: sent(png("red")), "/1.png": lambda: sent(png("blue"))}
    table = [{**rows(address)[n % 2], "caption": f"The cat {n} is left of the dog."} for n in range(10)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    assert len(load_benchmark(VSR, tmp_path / "test.jsonl", download=True).items) == 10
    assert sorted(path for _, path in asked) == ["/0.png", "/1.png"]
    assert len((tmp_path / "images" / SUMS).read_text().splitlines()) == 2


def test_a_damaged_picture_is_fetched_again(served, tmp_path):
    address, files, asked = served
    files["/0.png"] = png("red")
    path = Downloader(tmp_path).fetch(f"{address}/0.png")
    sha, name = (tmp_path / SUMS).read_text().split()
    assert name == "0.png" and sha == hashlib.sha256(png("red")).hexdigest()
    path.write_bytes(png("green"))
    asked.clear()
    assert Downloader(tmp_path).fetch(f"{address}/0.png").read_bytes() == png("red") and len(asked) == 1


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://x/0.png", "http://127.0.0.1:9/0.png", "http://x/"])
def test_addresses_that_lead_nowhere_are_refused(address, tmp_path):
    with pytest.raises(ValueError, match=r"is no address of a picture; expected http|cannot be fetched"):
        Downloader(tmp_path).fetch(address)
    assert not list(tmp_path.glob("*.png"))


def test_a_data_set_of_the_hub_is_fetched_at_one_revision_without_programs(served, tmp_path):
    address, files, asked = served
    files |= {"/0.png": png("red"), "/1.png": png("blue"), "/2.png": png("green")}
    files |= {f"{HUB}test.jsonl": "".join(json.dumps(row) + "\n" for row in rows(address)).encode(),
              f"{HUB}vsr.py": b"raise SystemExit('ran')"}  # fmt: skip
    code = "from cogvsr_utils import load_items; print(len(load_items('vsr:me/vsr@main', download=True)))"
    given = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "3\n", done.stderr
    assert f"VSR from the hub: me/vsr@{SHA}; licence: Apache-2.0" in done.stderr
    assert not any("vsr.py" in path for _, path in asked)


def test_a_place_of_the_hub_is_told_from_a_path():
    assert hub_id("MilaWang/SpatialEval") == ("MilaWang/SpatialEval", None)
    assert hub_id("a/b@v1.0") == ("a/b", "v1.0")
    assert not any(map(hub_id, ("vsr", "data/vsr.jsonl", "/data/vsr", "a/b/c", "../b", "a b/c")))
    with pytest.raises(FileNotFoundError, match=r"no copy of VSR at 'a/b'; .*, or download=True for a data"):
        load_items("vsr:a/b")
