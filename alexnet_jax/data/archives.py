"""The official archives of ILSVRC2012, read in place: nothing is extracted."""

import os
import pathlib
import re
import tarfile

from alexnet_jax import UserError
from alexnet_jax.data import sources

RECORD = 2**20  # more than the zeros at the end of an archive: tar fills up to 10 kB, other tools a little more
TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


def imagenet(root, image_size):
    """The training and validation images in the two archives of a directory.

    A training image's class is the archive within the archive that it comes from; a validation image's is looked up by
    the number in its file name, so that missing files shift nothing.

    Returns:
      {'train': source, 'validation': source} and the 1000 class names (WordNet ids, sorted).

    Raises:
      UserError: an archive is missing, incomplete or holds something else.
    """
    import tensorflow_datasets as tfds  # has the classes of the validation images, from the ILSVRC2012 development kit

    class_names = tuple(tfds.core.tfds_path("datasets/imagenet2012/labels.txt").read_text().split())
    answers = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt").read_text().split()
    labels = {class_name: label for label, class_name in enumerate(class_names)}
    root = pathlib.Path(root).expanduser()
    missing = [name for name in (TRAIN, VALIDATION) if not (root / name).is_file()]
    if missing:
        raise UserError(
            f"--root={root}: no {' and no '.join(missing)} there; get them from https://image-net.org/download"
        )

    def training_images():
        for member in _members(root / TRAIN):
            class_name, dot, _ = os.path.basename(member.name).partition(".")
            if class_name not in labels or not dot:
                raise UserError(
                    f"{root / TRAIN}: {member.name} is no class of ILSVRC2012; is this its training archive?"
                )
            for image in _members(root / TRAIN, member):
                yield image.offset_data, image.size, os.path.basename(image.name), labels[class_name]

    def validation_images():
        for image in _members(root / VALIDATION):
            number = re.search(r"_val_(\d{8})\.JPEG$", image.name)
            if not number or not 1 <= int(number[1]) <= len(answers):
                raise UserError(f"{root / VALIDATION}: {image.name} is no image of ILSVRC2012; is this the archive?")
            yield image.offset_data, image.size, os.path.basename(image.name), labels[answers[int(number[1]) - 1]]

    splits = {
        "train": sources.ArchiveSource(str(root / TRAIN), list(training_images()), image_size),
        "validation": sources.ArchiveSource(str(root / VALIDATION), list(validation_images()), image_size),
    }
    for source in splits.values():
        if not len(source):
            raise UserError(f"{source.origin}: holds no images; download it again")
    return splits, class_names


def _members(path, within=None):
    """The files in a tar file, or in the one that is its member `within`, with offsets from the start of `path`."""
    try:
        with open(path, "rb") as file:
            end = os.fstat(file.fileno()).st_size
            if within:
                file.seek(within.offset_data)
                end = within.offset_data + within.size
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if member.offset_data + member.size > end:
                        raise tarfile.ReadError(f"{member.name} goes beyond its end")
                    if member.isfile():
                        yield member
                # tarfile takes any block that is no header for the end. The true one is zeros, a record of them.
                file.seek(archive.offset)
                rest = file.read(min(end - archive.offset, RECORD + 1))
            if not tarfile.BLOCKSIZE <= len(rest) <= RECORD or rest.strip(b"\0"):
                raise tarfile.ReadError(f"damaged at byte {archive.offset}")
    except tarfile.TarError as error:
        where = f"{path}, {within.name}" if within else path
        raise UserError(f"{where}: not a complete archive ({error}); download it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
