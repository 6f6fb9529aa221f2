"""Files of weights that were made to do harm, or that have another name or place: read right, or one line."""

import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import threading
import time

import numpy as np
import pytest
import safetensors.numpy

from alexnet_jax import UserError, pretrained
from alexnet_jax.runtime import untrusted
from alexnet_jax.weights.weights import KEY
from tests.fixtures import fake_torch
from tests.weights.test_pretrained import NO_TORCH, assert_same

V1_OBJECT = b"{'descr': '|O', 'fortran_order': False, 'shape': ()}"


def refused(path, message=""):
    """The one line that a file ends in; `message` is a regular expression for what follows its name."""
    with pytest.raises(UserError, match=message) as error:
        pretrained.read(path)
    line = str(error.value)
    assert line.isprintable() and len(line) < 1000 and str(path) in line
    return line


# Pickles.


def npy(pickle_bytes, header=V1_OBJECT, version=b"\x01\x00"):
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    return b"\x93NUMPY" + version + length + header + pickle_bytes


def shared(depth):
    """A tuple of the same tuple twice, and so on: 2**depth paths lead to the last one."""
    return b")" + b"q\x00h\x00\x86" * depth


HOSTILE_PICKLES = {
    # Two keys with the same hash: some Pythons hash for ever, others compare for ever.
    "shared": (b"\x80\x02}(" + shared(60) + b"K\x01" + shared(60) + b"K\x01u.", "more than 1 s of computing"),
    "deep": (b"\x80\x02}()" + b"\x85" * 2_000_000 + b"K\x01u.", ""),
    "memo": (b"\x80\x02)r\xff\xff\xff\x3f.", ""),
    "promise": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".", ""),
    "number": (b"I" + b"9" * 1_000_000 + b"\n.", ""),
    "command": (b"cposix\nsystem\n(S'touch trap'\ntR.", "it asks for posix.system"),
    "extension": (b"\x80\x02\x82\x01.", ""),
    "persistent": (b"Pabc\n.", ""),
    "empty": (b".", ""),
}


@pytest.mark.parametrize("name", HOSTILE_PICKLES)
def test_hostile_pickles_end_in_one_line(name, tmp_path, monkeypatch):
    contents, message = HOSTILE_PICKLES[name]
    monkeypatch.setattr(untrusted, "SECONDS", 1)
    monkeypatch.setattr(untrusted, "MEMORY", 1_000_000_000)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.npy").write_bytes(npy(contents))
    refused(tmp_path / "net.npy", f"net.npy: not an intact .npy file of weights .*{message}")
    assert list(tmp_path.iterdir()) == [tmp_path / "net.npy"]


def test_arrays_that_promise_terabytes_are_refused(tmp_path):
    for header, message in [
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000, 1000)}", "an array of float32 instead"),
        (b"{'descr': '|O', 'fortran_order': False, 'shape': (1000000, 1000000)}", "an array of object instead"),
        (b"{'descr': [('a', '|O')], 'fortran_order': False, 'shape': ()}", ""),
        (b"(" * 9000, ""),
        (b"{}", "correct keys"),
    ]:
        (tmp_path / "net.npy").write_bytes(npy(b"\x80\x02N.", header))
        refused(tmp_path / "net.npy", f"not an intact .npy file of weights .*{message}")
    (tmp_path / "net.npy").write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{}")  # a header of 2 GB
    refused(tmp_path / "net.npy", "not an intact .npy file of weights")


def by_python_2(dtype, order, shape, is_fortran, data):
    """An array as NumPy pickled it under Python 2: its bytes are a string."""
    sizes = b"".join(b"K%c" % size for size in shape)
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(" + sizes + b"t"
        b"cnumpy\ndtype\n(U\x02" + dtype + b"K\x00K\x01tR(K\x03U\x01" + order + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb" + (b"\x88" if is_fortran else b"\x89") + b"U%c" % len(data) + data + b"tb"
    )


@pytest.mark.parametrize(
    ("header", "version"), [(V1_OBJECT, b"\x01\x00"), (V1_OBJECT, b"\x02\x00"), (V1_OBJECT, b"\x03\x00")]
)
def test_pickles_of_python_2_are_read(header, version, tmp_path):
    kernel = by_python_2(b"f4", b">", (2, 3), True, struct.pack(">6f", 1, 4, 2, 5, 3, -1.5e-7))
    bias = by_python_2(b"f8", b"<", (2,), False, struct.pack("<2d", 0.1, -200.0))
    half = by_python_2(b"f2", b"<", (1,), False, b"\x00\xc0")
    layers = b"}(U\x05conv1](" + kernel + bias + b"eU\x03fc8(" + half + half + b"tu"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01)"
    array += b"cnumpy\ndtype\n(U\x02O8K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89]" + layers
    (tmp_path / "net.npy").write_bytes(npy(b"\x80\x02" + array + b"atb.", header, version))
    with open(tmp_path / "net.npy", "rb") as file:
        arrays, texts = untrusted.read(file, "npy")
    expected = {
        "conv1.kernel": np.array([[1, 2, 3], [4, 5, -1.5e-7]], np.float32),
        "conv1.bias": np.array([0.1, -200.0]),
        "fc8.kernel": np.array([-2], np.float16),
        "fc8.bias": np.array([-2], np.float16),
    }
    assert arrays.keys() == expected.keys() and texts == {}
    for name, x in expected.items():
        assert arrays[name].dtype == x.dtype
        np.testing.assert_array_equal(arrays[name], x)


def test_the_reader_of_pickles_imports_nothing_from_the_current_directory(tmp_path, monkeypatch):
    for name in ("numpy", "safetensors", "pickle", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'trap')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.npy").write_bytes(npy(b"N."))
    refused(tmp_path / "net.npy", "'NoneType' object has no attribute 'state'")
    assert not (tmp_path / "trap").exists()


def test_ctrl_c_ends_the_reader_of_a_pickle(tmp_path, monkeypatch):
    (tmp_path / "net.npy").write_bytes(npy(HOSTILE_PICKLES["shared"][0]))
    started, start = [], subprocess.Popen

    def popen(*args, **options):
        started.append(start(*args, **options))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", popen)
    # A shell without job control starts its background processes with SIGINT ignored.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.5, signal.pthread_kill, [threading.get_ident(), signal.SIGINT])
    timer.start()
    begin = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            pretrained.read(tmp_path / "net.npy")
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, handler)
    assert started[0].wait(timeout=10) == -signal.SIGKILL and time.monotonic() - begin < 10


# PyTorch.


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """PyTorch is `fake_torch`."""
    (tmp_path / "modules").mkdir()
    shutil.copy(fake_torch.__file__, tmp_path / "modules" / "torch.py")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))


def ours_for_pytorch(weights):
    """The state dict that this program writes, for `fake_torch`."""
    from alexnet_jax.weights import weights as layouts

    arrays = weights.arrays(layouts.to_channels_first, layouts.weight_names)
    return arrays | {KEY: np.array(weights.description), f"{KEY}.mean": weights.mean}


@pytest.mark.parametrize(
    "name", ["net.pth", "net.pth.tar", "net.pt", "net.bin", "net", "net.onnx", "net.NPY", "né\udcff"]
)
def test_files_of_pytorch_are_known_by_their_content(name, stand_in, whole, tmp_path):
    np.savez(tmp_path / "net.npz", **ours_for_pytorch(whole))
    os.rename(tmp_path / "net.npz", tmp_path / name)
    assert_same(pretrained.read(tmp_path / name), whole)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"crash", "its reader was ended by SIGSEGV"),
        (b"endless", "reading it takes more than 1 s of computing"),
        (b"memory", ""),
        (b"view", "its arrays have more numbers than the file has bytes"),
        (b"code", "not a state dict, or damaged; make one by torch.save"),
        (b"\x00" * 10, ""),
    ],
)
def test_whatever_pytorch_does_ends_in_one_line(contents, message, stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "SECONDS", 1)
    (tmp_path / "net.pth").write_bytes(b"PK\x03\x04" + contents)
    line = refused(tmp_path / "net.pth", f"net.pth: not an intact .pth file of weights .*{message}")
    assert line.endswith("no code in it was run") and "weights_only=False" not in line


def test_a_reader_that_waits_is_ended(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "PATIENCE", 0.02)
    (tmp_path / "net.pth").write_bytes(b"\x80\x02wait")
    refused(tmp_path / "net.pth", "reading it takes more than 1.2 s")


def test_keys_that_differ_in_a_prefix_are_refused(stand_in, tmp_path):
    np.savez(tmp_path / "net.npz", **{"fc.bias": np.zeros(2), "module.fc.bias": np.ones(2)})
    shutil.copy(tmp_path / "net.npz", tmp_path / "net.pth")
    refused(tmp_path / "net.pth", "has keys that differ only in DataParallel's prefix")


def test_a_tar_archive_is_named(tmp_path):
    shutil.make_archive(str(tmp_path / "net.pth"), "tar", pathlib.Path(__file__).parent, "__init__.py")
    refused(tmp_path / "net.pth.tar", "net.pth.tar: a tar archive; unpack it, or, if PyTorch before 0.2 wrote it")


def integer(number):
    return b"\x8a\x09" + number.to_bytes(9, "little", signed=True)


def text(string):
    return b"X" + struct.pack("<I", len(string)) + string.encode()


def tensor(size, stride=(1,), numbers=4, offset=0):
    """A pickled tensor, of a storage of four numbers."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + integer(numbers) + b"tQ"
    shape = b"(" + b"".join(map(integer, size)) + b"t(" + b"".join(map(integer, stride)) + b"t"
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return rebuild + storage + integer(offset) + shape + b"\x89ccollections\nOrderedDict\n)RtR"


def state_dict(value, key=b"U\x11features.0.weight"):
    return b"\x80\x02}(" + key + value + b"u."


HOSTILE_STATE_DICTS = {
    "whole": (state_dict(tensor((4,))), "has no classifier.1.bias"),
    "repeated": (state_dict(tensor((1 << 40,), (0,))), "more numbers than the file has bytes"),
    "too_large": (state_dict(tensor((1 << 40,))), "not a state dict"),
    "overflow": (state_dict(tensor((1 << 62, 1 << 62), (0, 0))), "not a state dict"),
    "negative": (state_dict(tensor((4,), (-1,))), "not a state dict"),
    "before": (state_dict(tensor((4,), offset=-4)), "not a state dict"),
    "after": (state_dict(tensor((4,), offset=1 << 60)), "not a state dict"),
    "storage": (state_dict(tensor((4,), numbers=1 << 50)), "not a state dict"),
    "dimensions": (state_dict(tensor((1,) * 5000, (1,) * 5000)), "not an intact"),
    "number_as_key": (state_dict(tensor((4,)), integer(1)), "not a state dict"),
    "bytearray": (b"\x80\x02cbuiltins\nbytearray\n(" + integer(1 << 45) + b"tR.", "not an intact"),
    "command": (b"\x80\x02cposix\nsystem\n(" + text("touch trap") + b"tR.", "not a state dict"),
    "shared": (HOSTILE_PICKLES["shared"][0], "s of computing"),
    "deep": (HOSTILE_PICKLES["deep"][0], "ended by SIGSEGV"),
    "memo": (HOSTILE_PICKLES["memo"][0], "not an intact"),
    "attribute": (b"\x80\x02ccollections\nOrderedDict\n)R}(" + text("_metadata") + b"K\x05ub.", "not an intact"),
}


@pytest.mark.slow
@NO_TORCH
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", HOSTILE_STATE_DICTS)
def test_hostile_state_dicts_end_in_one_line(name, legacy, tmp_path, monkeypatch):
    import zipfile

    monkeypatch.setattr(untrusted, "SECONDS", 20)
    monkeypatch.chdir(tmp_path)
    contents, message = HOSTILE_STATE_DICTS[name]
    if legacy:
        message = ""
        (tmp_path / "net.pth").write_bytes(contents)
    else:
        with zipfile.ZipFile(tmp_path / "net.pth", "w") as archive:
            archive.writestr("archive/data.pkl", contents)
            archive.writestr("archive/byteorder", "little")
            archive.writestr("archive/data/0", np.arange(4, dtype=np.float32).tobytes())
            archive.writestr("archive/version", "3\n")
    refused(tmp_path / "net.pth", f"net.pth: .*{message}")
    assert list(tmp_path.iterdir()) == [tmp_path / "net.pth"]


@pytest.mark.slow
@NO_TORCH
def test_tensors_of_other_kinds_are_refused(tmp_path):
    import torch

    for x in (
        torch.zeros(2, 2).to_sparse(),
        torch.empty(10**9, device="meta"),
        torch.zeros(3, dtype=torch.complex64).conj(),
    ):
        torch.save({"features.0.weight": x}, tmp_path / "net.pth")
        refused(tmp_path / "net.pth", "net.pth: not an intact .pth file of weights")
    torch.save({}, tmp_path / "net.pth")
    refused(tmp_path / "net.pth", "has no classifier.1.bias")


# safetensors.


def safetensors_file(header, data=b"", length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


@pytest.mark.parametrize("suffix", [".onnx", ".pth", ".npy", ".bin", ""])
@pytest.mark.parametrize("length", [0x10280, 0x10408, 0x14B50])
def test_a_safetensors_file_is_known_by_its_content(length, suffix, whole, tmp_path):
    """The length of its header can look like the beginning of a pickle, of an ONNX file or of a zip file."""
    pretrained.write(tmp_path / "net.safetensors", whole)
    data = (tmp_path / "net.safetensors").read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    path = tmp_path / f"net{suffix}"
    path.write_bytes(safetensors_file(data[8:end].ljust(length), data[end:]))
    assert_same(pretrained.read(path), whole)


def test_hostile_safetensors_end_in_one_line(whole, tensors, tmp_path):
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    path = tmp_path / "net.safetensors"
    about = {"__metadata__": {KEY: whole.description}}
    cases = [
        safetensors_file({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4 << 40]}}),
        safetensors_file(b"{}", length=1 << 60),
        safetensors_file(b"{}", length=(1 << 32) - 1),
        safetensors_file({"a": one, "b": one}, bytes(4)),
        safetensors_file({"a": one | {"data_offsets": [4, 0]}}, bytes(4)),
        safetensors_file({"a": one | {"shape": [-1]}}, bytes(4)),
        safetensors_file(b'{"\xff":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
        safetensors_file(b'{"a":' + b"[" * 100_000),
        safetensors_file(b'{"__metadata__":{"a":1}}'),
        safetensors_file({"a": one}, bytes(3)),
        *(
            safetensors_file(
                about | {"a": {"dtype": kind, "shape": [8], "data_offsets": [0, 8 * size]}}, bytes(8 * size)
            )
            for kind, size in [("BF16", 2), ("F8_E4M3", 1), ("I64", 8), ("BOOL", 1), ("C64", 8)]
        ),
        safetensors.numpy.save(
            tensors | {"conv1.bias": np.full(tensors["conv1.bias"].shape, 1e300)}, about["__metadata__"]
        ),
        safetensors.numpy.save(tensors | {"mean": np.full(tensors["mean"].shape, 1e300)}, about["__metadata__"]),
        safetensors.numpy.save(tensors | {"mean": np.zeros((0, 1 << 40, 3), np.float32)}, about["__metadata__"]),
        safetensors.numpy.save(tensors | {"x" * 100_000: np.zeros(1)}, about["__metadata__"]),
        safetensors.numpy.save(tensors | {f"{i}\n\x1b[2J": np.zeros(1) for i in range(1000)}, about["__metadata__"]),
    ]
    for data in cases:
        path.write_bytes(data)
        refused(path, "net.safetensors: ")


def test_hostile_descriptions_end_in_one_line(whole, tensors, tmp_path):
    path, fields = tmp_path / "net.safetensors", json.loads(whole.description)
    model = fields["model"]
    changes = [{"step": x} for x in ("12", 1.5, True, None, [], -1)]
    changes += [{"class_names": x} for x in ([1] * 7, [["a"]] * 7, None, [], "abcdefg")]
    changes += [{"model": x} for x in ([], {}, None, model | {"net": 5}, model | {"\n" * 1000: 1})]
    changes += [{"model": model | {"width": x}} for x in ("x", 1e300, 1e9, -1.0, float("nan"))]
    changes += [{"model": model | {"image_size": x}} for x in ("94", 94.5, -5, 10**9)]
    changes += [{"model": model | {"input_std": x}} for x in (5, [0, 0, 0], ["a", "b", "c"], [1])]
    changes += [{"model": model | {x: "os.system"}} for x in ("activation", "without", "dtype")]
    descriptions = [json.dumps(fields | change) for change in changes]
    descriptions += ['{"model":' * 100_000, '{"model":{},"class_names":[],"step":' + "9" * 100_000 + "}"]
    for description in descriptions:
        path.write_bytes(safetensors.numpy.save(tensors, {KEY: description}))
        refused(path, "net.safetensors: ")
    assert len(descriptions) == 34


def test_odd_class_names_are_kept_as_they_are(whole, tensors, tmp_path):
    names = ["a\nb", "\x1b[2J", "\u202egpj", "a|b", "$x", "\ud800", "[x](javascript:alert(1))"]
    description = json.dumps(json.loads(whole.description) | {"class_names": names})
    (tmp_path / "net.safetensors").write_bytes(safetensors.numpy.save(tensors, {KEY: description}))
    weights = pretrained.read(tmp_path / "net.safetensors")
    for suffix in (".safetensors", ".onnx"):
        pretrained.write(tmp_path / f"again{suffix}", weights)
        assert pretrained.read(tmp_path / f"again{suffix}").class_names == tuple(names)
