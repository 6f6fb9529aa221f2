"""Runs a config file, which is a program of the user's."""

import importlib.machinery
import importlib.util
import pathlib
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

from alexnet_jax import UserError
from alexnet_jax.runtime import command_line, files

T = TypeVar("T")


def run(argument: str, read: Callable[..., T]) -> T:
    """Executes a config file and returns `read(module)`, or `read(module, word)`.

    Args:
      argument: FILE or FILE:WORD.

    Raises:
      UserError: the file cannot be read, or it or `read` raises an exception.
    """
    file, *word = argument.split(":", 1)
    path = pathlib.Path(file)
    remedy = f"the project's own are in {command_line.PROJECT / 'configs'}"
    if not files.exists(file):
        raise UserError(f"--config={file}: no such file; {remedy}")
    if path.suffix != ".py":
        raise UserError(f"--config={file}: is not a Python file; {remedy}")
    files.read_bytes(path, remedy=remedy)  # a pipe would make Python wait
    sys.path.insert(0, "")  # the current directory, for configs that import others
    try:
        _import_siblings(path)
        loader = importlib.machinery.SourceFileLoader("config_file", str(path))
        module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(loader.name, loader, origin=str(path)))
        sys.modules[loader.name] = module
        loader.exec_module(module)
        return read(module, *word)
    except UserError as error:
        raise UserError(f"--config={argument}: {error}") from error
    except (Exception, SystemExit) as error:  # it can raise anything; the line names its type and place
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{argument}, line {lines[-1]}" if lines else argument
        raise UserError(f"--config={where}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove("")


def _import_siblings(path: pathlib.Path) -> None:
    """Makes `configs` the directory of the file, if that is its name, whatever `configs` the current directory has."""
    directory = path.resolve().parent
    if directory.name != "configs" or list(getattr(sys.modules.get("configs"), "__path__", ())) == [str(directory)]:
        return
    spec = importlib.machinery.PathFinder.find_spec("configs", [str(directory.parent)])
    assert spec
    package: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules["configs"] = package
    if spec.loader:
        spec.loader.exec_module(package)
