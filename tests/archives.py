"""The two archives of ILSVRC2012 in miniature: three classes, and the oddities of the real ones."""

import io
import tarfile

import numpy as np
from PIL import Image

# Class and channel that its images are bright in.
CHANNELS = {"n01440764": 0, "n02102040": 1, "n03888257": 2}
# Validation images of these classes by their numbers in ILSVRC2012, as Imagenette's file names have them; many others
# lie between them.
VALIDATION = {
    "n01440764": (293, 2138, 3014, 6697, 7197, 9346),
    "n02102040": (665, 1968, 2294, 2315, 4548, 4553),
    "n03888257": (2508, 2665, 4745, 7616, 9269, 9559),
}


def channel(class_name):
    """The one that images of a class are bright in."""
    return CHANNELS.get(class_name, int(class_name[1:]) % 3)


def picture(class_name, number, size=(100, 80)):
    rng = np.random.default_rng([int(class_name[1:]), number])
    pixels = rng.integers(0, 120, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    pixels[..., channel(class_name)] += 130
    return Image.fromarray(pixels).resize(size)


def encode(image, kind="JPEG"):
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


def odd_picture(class_name, number):
    """As JPEG, or as one of what is among the real images under that name."""
    image = picture(class_name, number, {3: (30, 24), 4: (600, 400), 5: (90, 300)}.get(number, (100, 80)))
    if number == 0:
        return encode(image, "PNG")
    if number == 1:
        return encode(image.convert("CMYK"))
    if number == 2:
        return encode(image.convert("L"))
    return encode(image)


def add(archive, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def write_archives(root, per_class=8, validation=VALIDATION):
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as train:
        for class_name in CHANNELS:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for number in range(per_class):
                    add(archive, f"{class_name}_{number}.JPEG", odd_picture(class_name, number))
            add(train, f"{class_name}.tar", inner.getvalue())
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as archive:
        numbers = sorted((number, class_name) for class_name in validation for number in validation[class_name])
        for number, class_name in numbers[::-1]:  # in whatever order
            add(archive, f"ILSVRC2012_val_{number:08}.JPEG", encode(picture(class_name, number)))
    return root
