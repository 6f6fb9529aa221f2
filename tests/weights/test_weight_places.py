"""Places where weights cannot be read or written, and links there: one line, and nothing else is touched."""

import os
import pathlib

import pytest

from alexnet_jax import UserError, pretrained
from tests.support import bound_by_permissions
from tests.weights.test_pretrained import SUFFIXES, assert_same

PLACES = {
    "fifo": "is a pipe or a device",
    "/dev/zero": "is a pipe or a device",
    "directory": "cannot be read .Is a directory",
    "x" * 300: "cannot be read .File name too long",
    "~nosuchuser/net": "~nosuchuser/net.*: ",
    "n\udcff": "cannot be read .No such file",
    "a\0b": "no path holds a zero byte",
    "loop": "cannot be read",
    "file/net": "cannot be read .Not a directory",
    "dangling": "cannot be read .No such file",
}


@pytest.mark.parametrize("suffix", ["", ".pth", ".npy", ".onnx", ".safetensors"])
def test_places_that_are_no_file_are_named(suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo(f"fifo{suffix}")
    os.mkdir(f"directory{suffix}")
    os.symlink(f"loop{suffix}", f"loop{suffix}")
    os.symlink("nowhere", f"dangling{suffix}")
    pathlib.Path("file").write_text("x")
    for name, message in PLACES.items():
        name += suffix if name != "/dev/zero" else ""
        with pytest.raises(UserError, match=message):
            pretrained.read(name)


def test_missing_permission_is_named(whole, reachable_path):
    net, closed = reachable_path / "net.onnx", reachable_path / "closed"
    pretrained.write(net, whole)
    net.chmod(0)
    closed.mkdir(0o500)
    for work, message in (
        (lambda: pretrained.read(net), "net.onnx: cannot be read .Permission denied"),
        (lambda: pretrained.write(closed / "net.onnx", whole), "closed/.*: cannot be written .Permission denied"),
        (lambda: pretrained.to_workdir(whole, closed / "run"), "closed/.*: cannot be written .Permission denied"),
    ):
        with bound_by_permissions(reachable_path), pytest.raises(UserError, match=message):
            work()


def test_a_lost_current_directory_is_named(whole, tmp_path, monkeypatch):
    (tmp_path / "lost").mkdir()
    monkeypatch.chdir(tmp_path / "lost")
    (tmp_path / "lost").rmdir()
    for work in (
        lambda: pretrained.read("net.pth"),
        lambda: pretrained.write("net.onnx", whole),
        lambda: pretrained.to_workdir(whole, "run"),
        lambda: pretrained.from_workdir("run"),
    ):
        with pytest.raises(UserError, match="the current directory does not exist any more"):
            work()
    pretrained.write(tmp_path / "net.onnx", whole)
    assert_same(pretrained.read(tmp_path / "net.onnx"), whole)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_export_touches_no_other_file(suffix, whole, tmp_path):
    path, victim = tmp_path / f"net{suffix}", tmp_path / "victim"
    victim.write_text("mine")
    for name in (f"net{suffix}.tmp", f".net{suffix}", f".net{suffix}.tmp", "net.tmp"):
        (tmp_path / name).write_text("mine")
    before = sorted(tmp_path.iterdir())
    os.symlink("victim", path)
    pretrained.write(path, whole)
    assert not path.is_symlink() and all(x.read_text() == "mine" for x in before)
    assert sorted(tmp_path.iterdir()) == sorted([*before, path])
    assert_same(pretrained.read(path), whole)
    path.unlink()
    os.link(victim, path)
    pretrained.write(path, whole)
    assert victim.read_text() == "mine" and sorted(tmp_path.iterdir()) == sorted([*before, path])


def test_an_export_to_a_bad_place_leaves_nothing(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "directory.onnx").mkdir()
    before = sorted(tmp_path.iterdir())
    for name in ("x" * 300 + ".onnx", "directory.onnx", "nowhere/net.onnx", "~nosuchuser/net.onnx"):
        with pytest.raises(UserError, match=r"cannot be written|~nosuchuser"):
            pretrained.write(name, whole)
    for name in ("net.pth.tar", ".onnx", "net.ONNX", ""):
        with pytest.raises(UserError, match="no such format to write"):
            pretrained.write(name, whole)
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_is_written_through_no_link(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "file").write_text("mine")
    for link, target in (("dangling", "nowhere"), ("loop", "loop"), ("link", "real")):
        os.symlink(target, link)
    before = sorted(tmp_path.iterdir())
    for name, message in {
        "dangling": "is a link",
        "loop": "is a link",
        "link": "is a link",
        "file": "Not a directory",
        "file/run": "Not a directory",
        "x" * 300: "File name too long",
        "~nosuchuser/run": "~nosuchuser/run: ",
        "n\udcff": "not UTF-8",
        "/dev/null": "Not a directory",
    }.items():
        with pytest.raises(UserError, match=message):
            pretrained.to_workdir(whole, name)
        with pytest.raises(UserError):
            pretrained.from_workdir(name)
    assert sorted(tmp_path.iterdir()) == before and not list((tmp_path / "real").iterdir())
    pretrained.to_workdir(whole, "link/run")  # a parent may be a link
    assert_same(pretrained.from_workdir(tmp_path / "real" / "run"), whole)
    (tmp_path / "empty").mkdir()
    pretrained.to_workdir(whole, "empty")
    assert_same(pretrained.from_workdir("empty"), whole)
