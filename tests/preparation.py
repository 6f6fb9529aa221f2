"""Running `alexnet_jax.prepare` in a process of its own, and looking at what it made."""

import hashlib
import subprocess
import sys

import tensorflow_datasets as tfds

# Shards of eight images: a few images are many shards.
SMALL_SHARDS = "from alexnet_jax import prepare; prepare.IMAGES_PER_SHARD = 8; prepare.main()"


def start(*flags, code=SMALL_SHARDS, **options):
    command = [sys.executable, "-c", code, *map(str, flags)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def run(*flags, **options):
    process = start(*flags, **options)
    out, error = process.communicate()
    return process.returncode, out, error


def assert_one_line(result, message):
    code, _, error = result
    lines = error.strip().splitlines()
    assert code != 0 and len(lines) == 1 and lines[0].startswith("alexnet_jax: ") and message in lines[0], error


def checksums(directory):
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def examples(directory, split):
    """Through TFDS alone, with the file names as str."""
    decoders = {"image": tfds.decode.SkipDecoding()}
    source = tfds.builder_from_directory(directory).as_data_source(split, decoders=decoders)
    return [example | {"file_name": example["file_name"].decode()} for example in source]


def flags(folder, output, *others):
    return "--dataset=folder", f"--root={folder}", f"--output={output}", "--size=48", "--max_undecodable=0.1", *others
