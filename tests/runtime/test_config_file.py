"""Config files: what is wrong with one is said in one line, and its siblings are those beside it."""

import os
import pathlib
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from alexnet_jax import UserError, settings
from alexnet_jax.runtime import config_file

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def get_config(module, *word):
    return module.get_config(*word)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("def get_config(", "SyntaxError: '(' was never closed"),
        ("def get_config():\n    raise ValueError('two\\nlines')", ", line 2: ValueError: two\nlines"),
        ("import nosuchmodule", ", line 1: ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("raise SystemExit(0)", ", line 1: SystemExit: 0"),
        ("def get_config(): return get_config()", "RecursionError"),
        ("", "has no attribute 'get_config'"),
        ("def get_config(word): return 1", "missing 1 required positional argument"),
        ("\0", "SyntaxError"),
    ],
)
def test_what_a_config_raises_is_said_with_its_place(program, message, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(program)
    with pytest.raises(UserError) as raised:
        config_file.run(str(path), get_config)
    assert str(raised.value).startswith(f"--config={path}") and message in str(raised.value)


def test_what_is_no_file_is_said(tmp_path):
    (tmp_path / "directory.py").mkdir()
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "link.py").symlink_to("link.py")
    (tmp_path / "config.txt").write_text("")
    cases = {
        "": "no such",
        "directory.py": "directory",
        "pipe.py": "a pipe",
        "link.py": "Too many levels",
        "config.txt": "no.* Python",
    }
    for name, message in (cases | {f"{'a' * 300}.py": "too long"}).items():
        with pytest.raises(UserError, match=message):
            config_file.run(str(tmp_path / name) if name else "", get_config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (3, "returns int, not a ConfigDict"),
        (None, "returns NoneType"),
        ({"seed": 1}, "returns dict"),
        (ConfigDict(), r"lacks augment.colour_noise, .*; start from alexnet_jax.settings.defaults"),
        (ConfigDict(settings.defaults().to_dict() | {"sede": 1}), "has the unknown sede"),
    ],
)
def test_a_config_must_have_the_fields_of_the_defaults(config, message):
    with pytest.raises(UserError, match=message):
        settings.check_fields(config, "config.py")


@pytest.mark.parametrize("package", [True, False])
def test_another_directory_of_configs_hides_nothing(package, tmp_path):
    (tmp_path / "configs").mkdir()
    for name in ("imagenette", "two_gpu", *["__init__"] * package):
        (tmp_path / "configs" / f"{name}.py").write_text("raise RuntimeError('theirs')")
    code = (
        "import sys; from alexnet_jax.runtime import config_file\n"
        "print(config_file.run(sys.argv[1], lambda module: module.get_config()).model.image_size)"
    )
    command = [sys.executable, "-c", code, str(CONFIGS / "imagenette_narrow.py")]
    environment = os.environ | {"PYTHONPATH": str(CONFIGS.parent)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.stdout == "112\n", done.stderr


def test_a_directory_of_configs_elsewhere_has_siblings_too(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.py").write_text("SEED = 7")
    (tmp_path / "configs" / "mine.py").write_text("from configs import base\ndef get_config(): return base.SEED")
    ours = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "configs"}
    try:
        assert config_file.run(str(tmp_path / "configs" / "mine.py"), get_config) == 7
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
            del sys.modules[name]
        sys.modules.update(ours)
