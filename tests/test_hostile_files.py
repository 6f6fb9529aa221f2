"""Files that were made to do harm, by the hundred: each is read right or ends in one line, and does nothing else.

Nothing in a file may be run or imported, no file outside the test's directory may be written, and no program started.
"""

import contextlib
import faulthandler
import html.parser
import json
import os
import pathlib
import shutil
import signal
import sys
import warnings

import numpy as np
import pytest

from alexnet_jax import UserError, pretrained
from alexnet_jax.analysis import ensemble, pages
from alexnet_jax.data import datasets, images, preparation
from alexnet_jax.runtime import text
from alexnet_jax.training import metrics
from alexnet_jax.weights import formats
from tests.fixtures import hostile_files, imagenet_archives
from tests.fixtures.weight_files import some_weights, write_npy
from tests.support import write_images

COUNTS = {"image": 230, "tar": 60, "json": 120, "weights": 60, "pickle": 5, "name": 60}  # default: 535 in all
SECONDS = 20  # for one case
PROGRAMS = (
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "subprocess.Popen",
    "pty.spawn",
)
NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request")
CHANGES = ("os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate", "shutil.rmtree")

# While a case runs: its directory, the programs that it may start, and what it did beyond that. A hook of
# `sys.addaudithook` cannot be removed, so it reads what it is to do here.
_watched: dict = {}


def _hook(event, args):
    if not _watched:
        return
    if event in PROGRAMS + NETWORK and event not in _watched["allowed"]:
        _watched["seen"].append(f"{event} {args}")
    elif event == "open":
        path, mode, flags = args
        if isinstance(path, (str, bytes)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            _check_path(event, os.fsdecode(path))
    elif event in CHANGES:
        for path in args:
            if isinstance(path, (str, bytes)):
                _check_path(event, os.fsdecode(path))


def _check_path(event, path):
    if not os.path.abspath(path).startswith((str(_watched["directory"]), "/dev/null")):
        _watched["seen"].append(f"{event} {path}")


@pytest.fixture(scope="session")
def hook():
    sys.addaudithook(_hook)


class TooSlowError(BaseException):
    """A case takes too long. No `except Exception` may hide it."""


def too_slow(*_):
    raise TooSlowError


@pytest.fixture
def harmless(hook, tmp_path, monkeypatch):
    """A function that reads one case: it returns the message of a UserError, or '' if the file is read.

    It fails the test at a traceback, a hang, a program, a connection, an import, or a file outside the directory.
    """
    trap = tmp_path / "trap" / f"{hostile_files.TRAP}.py"
    trap.parent.mkdir()
    trap.write_text("class Trap:\n    pass\n")
    monkeypatch.syspath_prepend(trap.parent)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = signal.signal(signal.SIGALRM, too_slow)
    faulthandler.dump_traceback_later(600, exit=True)  # a loop outside Python, which no signal interrupts

    def read(what, function, *args, allowed=()):
        message = ""
        _watched.update(directory=tmp_path, allowed=allowed, seen=[])
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            with warnings.catch_warnings(action="ignore"):
                function(*args)
        except UserError as error:
            message = str(error)
        except TooSlowError:
            pytest.fail(f"{what}: still running after {SECONDS} s")
        except BaseException as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {str(error)[:300]}") from error
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            seen = _watched.pop("seen")
            _watched.clear()
        assert not seen, f"{what}: {seen}"
        assert hostile_files.TRAP not in sys.modules, what
        line = text.printable(message)
        assert line.isprintable(), what
        return message

    yield read
    faulthandler.cancel_dump_traceback_later()
    signal.signal(signal.SIGALRM, before)


def generator(kind, i):
    return np.random.default_rng([26, list(COUNTS).index(kind), i])


def read_image(data):
    pixels = images.decode(data, "case", 32)
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8


def check_images(count, harmless, tmp_path):
    whole = hostile_files.images()
    for kind, data in whole.items():
        message = harmless(kind, read_image, data)
        assert bool(message) == (kind in ("EPS", "SVG")), (kind, message)
    for i in range(count):
        what, data = hostile_files.image(whole, generator("image", i))
        harmless(f"image {i}: {what}", read_image, data)


def check_tars(count, harmless, tmp_path):
    root = imagenet_archives.write_archives(tmp_path / "archives")
    archive = datasets.find("imagenet", str(root))
    assert harmless("whole", archive.load, "train", 32) == ""
    picture = imagenet_archives.odd_picture("n01440764", 7)
    for i in range(count):
        what, data = hostile_files.tar("n01440764", picture, generator("tar", i))
        (root / "ILSVRC2012_img_train.tar").write_bytes(data)

        def load():
            source = archive.load("train", 32).source
            for j in range(min(len(source), 3)):
                with contextlib.suppress(UserError):  # of this image
                    read_image(source.read(j)[0])

        harmless(f"tar {i}: {what}", load)


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    """A directory with a run, a prepared set and a textures' directory."""
    root = tmp_path_factory.mktemp("whole")
    pretrained.to_workdir(some_weights("two_gpu"), root / "run")
    line = {"step": 1, "epoch": 0.5, "split": "train", "loss": 1.5, "top1_error": 0.5, "learning_rate": 0.1}
    (root / "run" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    folder = write_images(root / "images", {"train": (2, 1), "val": (1, 1)}, size=32)
    preparation.prepare("folder", str(folder), root / "prepared", size=32, workers=1)
    return root


def read_run(root):
    ensemble.read(root / "run")


def read_metrics(root):
    metrics.read(root / "run" / "metrics.jsonl")


def read_prepared(root):
    data = datasets.load("prepared", str(root / "prepared"), 32)
    for i in range(len(data.train)):
        data.train[i]


def prepare_again(root):
    preparation.prepare("folder", str(root / "images"), root / "prepared", size=32, workers=1)


JSON = {
    "run/config.json": read_run,
    "run/net.json": read_run,
    "run/metrics.jsonl": read_metrics,
    "run/checkpoints/12/_CHECKPOINT_METADATA": read_run,
    "prepared/statistics.json": read_prepared,
    "prepared/features.json": read_prepared,
    "prepared/dataset_info.json": read_prepared,
    "prepared/prepare.json": prepare_again,
}


def check_json(count, harmless, tmp_path, whole_files):
    root = tmp_path / "json"
    shutil.copytree(whole_files, root)
    whole = {name: (root / name).read_text() for name in JSON}
    for name, read in JSON.items():
        assert harmless(name, read, root) == ""
    for i in range(count):
        rng = generator("json", i)
        name = list(JSON)[i % len(JSON)]
        damaged = hostile_files.json_text(whole[name], rng)
        (root / name).write_text(damaged, errors="surrogateescape")
        if name.startswith("prepared"):  # TFDS checks nothing, so that our own check of lengths must not hide it
            statistics = json.loads(whole["prepared/statistics.json"])
            if name != "prepared/statistics.json":
                statistics["bytes"].pop(pathlib.Path(name).name, None)
                (root / "prepared" / "statistics.json").write_text(json.dumps(statistics))
        harmless(f"json {i}: {name}: {damaged[:2000]}", JSON[name], root)
        (root / name).write_text(whole[name])
        (root / "prepared" / "statistics.json").write_text(whole["prepared/statistics.json"])


def check_weights(count, harmless, tmp_path):
    whole = {}
    for suffix in (".safetensors", ".onnx"):
        pretrained.write(tmp_path / f"net{suffix}", some_weights("one_gpu"))
        whole[suffix] = (tmp_path / f"net{suffix}").read_bytes()
        assert harmless(suffix, formats.read, tmp_path / f"net{suffix}") == ""
    for i in range(count):
        rng = generator("weights", i)
        suffix = list(whole)[i % len(whole)]
        path = tmp_path / f"case{suffix}"
        path.write_bytes(hostile_files.damaged(whole[suffix], rng))
        harmless(f"weights {i}: {suffix}", formats.read, path)


def check_pickles(count, harmless, tmp_path):
    layers = {
        name: {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)} for name in ("conv1", "fc8")
    }
    write_npy(
        tmp_path / "net.npy", layers | {"conv1": {"kernel": np.ones((1, 1, 3, 2), np.float32), "bias": np.ones(2)}}
    )
    whole = (tmp_path / "net.npy").read_bytes()
    for i in range(count):
        (tmp_path / "case.npy").write_bytes(hostile_files.damaged(whole, generator("pickle", i)))
        message = harmless(
            f"pickle {i}", formats.read, tmp_path / "case.npy", allowed=("subprocess.Popen", "os.posix_spawn")
        )
        assert message


def check_names(count, harmless, tmp_path):
    for i in range(count):
        name = hostile_files.name(generator("name", i))
        root = tmp_path / f"names{i}"
        pictures = write_images(root, {"train": (1, 1), "val": (1, 1)}, size=16)
        usable = name.replace("/", "").replace("\0", "").encode(errors="surrogateescape")[:200].lstrip(b".") or b"x"
        for split in ("train", "val"):
            os.rename(os.fsencode(pictures / split / "class_1"), os.fsencode(pictures / split) + b"/" + usable)
        harmless(f"name {i}: {name!a}", datasets.load, "folder", str(root), 16)
        line = text.printable(name)
        assert line.isprintable() and (line == name or "\\" in line)
        cell = pages.literal(name)
        page = pages.to_html([("title", cell), ("text", cell), ("table", [[cell], [cell]])])
        shown = Shown()
        shown.feed(page)
        assert shown.tags == PAGE_TAGS, ascii(name)
        # The title, the heading, the text and the two cells.
        assert [shown.words[i].strip("\n") for i in (4, 7, 8, 11, 13)] == [line] * 5, ascii(name)


class Shown(html.parser.HTMLParser):
    """The elements and the words of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.words = [], [""]

    def handle_starttag(self, tag, _):
        self.tags.append(tag)
        self.words.append("")

    def handle_data(self, data):
        self.words[-1] += data


PAGE_TAGS = ["html", "head", "meta", "title", "style", "body", "h1", "p", "table", "tr", "th", "tr", "td"]
CHECKS = {
    "image": check_images,
    "tar": check_tars,
    "json": check_json,
    "weights": check_weights,
    "pickle": check_pickles,
    "name": check_names,
}


@pytest.mark.parametrize("kind", CHECKS)
def test_hundreds_of_hostile_files_do_nothing(kind, harmless, tmp_path, request):
    more = [request.getfixturevalue("whole_files")] if kind == "json" else []
    CHECKS[kind](COUNTS[kind], harmless, tmp_path, *more)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHECKS)
def test_ten_thousand_hostile_files_do_nothing(kind, harmless, tmp_path, request):
    more = [request.getfixturevalue("whole_files")] if kind == "json" else []
    CHECKS[kind](19 * COUNTS[kind], harmless, tmp_path, *more)
