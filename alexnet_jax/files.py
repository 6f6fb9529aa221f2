"""Small files that are there whole or not at all."""

import json
import os

from alexnet_jax import UserError


def write_json(path, value):
    """Writes a dict as JSON."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)


def read_json(path):
    """The dict in a JSON file. Raises UserError if there is none."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore or remove it") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: is not what this program wrote; restore or remove it")
    return value
