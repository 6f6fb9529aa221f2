"""ONNX files that were made to do harm: read right, or one line."""

import os

import onnx
import pytest
from onnx import TensorProto

from alexnet_jax import UserError, pretrained
from alexnet_jax.weights import onnx_file
from tests.weights.test_hostile_weights import refused
from tests.weights.test_pretrained import assert_same


@pytest.fixture
def graph(whole, tmp_path):
    """A path, and a function that writes our own ONNX file there after a change."""
    path = tmp_path / "net.onnx"
    pretrained.write(path, whole)
    original = path.read_bytes()

    def changed(change):
        model = onnx.load_model_from_string(original)
        change(model, {x.name: x for x in model.graph.initializer})
        path.write_bytes(model.SerializeToString())
        return path

    return changed


def test_weights_beside_an_onnx_file_are_read(graph, whole, tmp_path):
    path = graph(lambda model, tensors: None)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="net.data", size_threshold=0)
    assert path.stat().st_size < 20_000
    assert_same(pretrained.read(path), whole)
    os.rename(tmp_path / "net.data", tmp_path / "elsewhere")
    os.symlink("elsewhere", tmp_path / "net.data")
    refused(path, "net.onnx: its weights are in .*net.data, which is elsewhere or a link")
    os.remove(tmp_path / "net.data")
    refused(path, "net.data: cannot be read .No such file")
    os.mkfifo(tmp_path / "net.data")
    refused(path, "net.data: is a pipe or a device")
    os.remove(tmp_path / "net.data")
    (tmp_path / "net.data").write_bytes((tmp_path / "elsewhere").read_bytes()[:-8])
    refused(path, "net.onnx: not an intact .onnx file of weights")


def test_weights_elsewhere_are_never_read(graph, tmp_path):
    (tmp_path / "some.data").write_bytes(bytes(100))
    (tmp_path / "empty.data").write_bytes(b"")
    os.symlink("/etc", tmp_path / "etc")
    for location, entries, message in [
        ("../../../../../etc/passwd", {}, "its weights are in .*, which is elsewhere or a link"),
        ("/etc/passwd", {}, "its weights are in /etc/passwd, which is elsewhere"),
        ("/dev/zero", {}, "which is elsewhere"),
        ("etc/passwd", {}, "which is elsewhere or a link"),
        (".", {}, "cannot be read"),
        ("x" * 5000, {}, ""),
        ("\x1b[2J\n", {}, "No such file"),
        ("a\0b", {}, ""),
        ("empty.data", {}, ""),
        ("some.data", {}, ""),
        ("some.data", {"offset": "-5"}, "at byte -5"),
        ("some.data", {"offset": "x"}, ""),
        ("some.data", {"offset": str(1 << 70)}, ""),
        ("some.data", {"length": str(1 << 60)}, ""),
        ("some.data", {"length": "-5"}, "does not have its 65536 bytes"),
    ]:

        def move(model, tensors, entries=entries | {"location": location}):
            tensors["fc6.weight"].ClearField("raw_data")
            tensors["fc6.weight"].data_location = TensorProto.EXTERNAL
            for key, value in entries.items():
                tensors["fc6.weight"].external_data.add(key=key, value=value)

        refused(graph(move), f"net.onnx: .*{message}")


def test_hostile_onnx_ends_in_one_line(graph, tmp_path):
    def reshaped(name, *dims):
        def change(model, tensors):
            del tensors[name].dims[:]
            tensors[name].dims.extend(dims)

        return change

    def typed(kind):
        return lambda model, tensors: setattr(tensors["fc6.weight"], "data_type", kind)

    def strings(model, tensors):
        """As an array of equally long strings it would take 300 GB."""
        tensors["fc6.weight"].CopyFrom(
            TensorProto(name="fc6.weight", data_type=TensorProto.STRING, string_data=[b"x" * 10**6] + [b""] * 10**5)
        )

    for change, message in [
        (reshaped("fc6.weight", 1 << 40, 1 << 20), ""),
        (reshaped("fc8.bias", 1 << 62), ""),
        (reshaped("mean", 3, 1 << 40, 1 << 20), ""),
        (lambda model, tensors: setattr(tensors["fc6.weight"], "raw_data", b"123"), ""),
        (typed(TensorProto.UNDEFINED), "fc6.weight holds UNDEFINED, not floating-point numbers"),
        (typed(TensorProto.INT64), "holds INT64"),
        (typed(TensorProto.COMPLEX64), "holds COMPLEX64"),
        (typed(99), ""),
        (strings, "fc6.weight holds STRING"),
    ]:
        refused(graph(change), f"net.onnx: .*{message}")

    def field(tag, contents):
        length, number = b"", len(contents)
        while number > 127:
            length, number = length + bytes([number & 127 | 128]), number >> 7
        return bytes([tag]) + length + bytes([number]) + contents

    deep = b""
    for _ in range(3000):  # graphs in attributes of nodes of graphs
        deep = field(0x0A, field(0x2A, field(0x32, deep)))
    loop = onnx.helper.make_graph([onnx.helper.make_node("Conv", ["x"] * 3, ["x"])] * 8, "loop", [], [])
    for data, message in [
        (b"\x08\x08" + field(0x3A, deep), "not an intact .onnx file of weights"),
        (b"\x08\x08\x3a\xff\xff\xff\xff\x07abc", "not an intact .onnx file of weights"),
        (b"\x08\x08", "has 0 layers with weights"),
        (onnx.helper.make_model(loop).SerializeToString(), "has no classifier.1.bias"),
    ]:
        (tmp_path / "hand.onnx").write_bytes(data)
        refused(tmp_path / "hand.onnx", f"hand.onnx: .*{message}")


def test_what_a_graph_holds_besides_does_no_harm(graph, whole):
    def change(model, tensors):
        model.graph.node.add(op_type="Constant")
        model.graph.node.add(op_type="Constant", output=["a"]).attribute.add(name="value")
        model.graph.initializer.add(
            name="unused", data_type=TensorProto.STRING, string_data=[b"x" * 10**6] + [b""] * 10**5, dims=[10**5 + 1]
        )

    assert_same(pretrained.read(graph(change)), whole)


def test_a_net_that_is_too_large_for_onnx_is_named(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "MOST", 100_000)
    with pytest.raises(UserError, match="net.onnx: ONNX files hold at most 0.0001 GB; write .safetensors"):
        pretrained.write(tmp_path / "net.onnx", whole)
    assert not list(tmp_path.iterdir())
