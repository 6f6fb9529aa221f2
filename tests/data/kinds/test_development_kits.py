"""ImageNet's archives with a development kit: its labels are checked, and what is broken is named."""

import pytest

from alexnet_jax import UserError
from alexnet_jax.data import datasets
from alexnet_jax.data.kinds.imagenet import validation_classes
from tests.fixtures import miniature_sets as mini
from tests.fixtures.miniature_sets import SIZE, prepare, truncate

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets|etils")


KIT, KIT_2010 = "ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2010_devkit-1.0.tar.gz"
TEST_LABELS = "ILSVRC2010_test_ground_truth.txt"


OTHER_IDS = dict(zip(mini.kit_ids(), range(1000, 0, -1), strict=True))


def other_label(root):
    classes = list(validation_classes())
    classes[4] = "n01440764"
    mini.write_kit(root / KIT, 2012, classes)


ARCHIVES = {
    "another kit": (
        mini.imagenet2012,
        other_label,
        "labels the validation image 5 as 'n01440764', but its class is n0",
    ),
    "a kit with three labels": (
        mini.imagenet2012,
        lambda root: mini.write_kit(root / KIT, 2012, validation_classes()[:3]),
        "t12.tar.gz: has 3 labels for 50,000 validation images",
    ),
    "a kit with other numbers": (
        mini.imagenet2012,
        lambda root: mini.write_kit(root / KIT, 2012, validation_classes(), ids=OTHER_IDS),
        "t12.tar.gz: its classes are not those of ILSVRC2012",
    ),
    "a truncated kit": (mini.imagenet2012, lambda root: truncate(root / KIT, 4000), "t12.tar.gz: not a complete arch"),
    "a kit without labels": (
        mini.imagenet2012,
        lambda root: mini.write_tar(root / KIT, [("readme", b"")], "w:gz"),
        "t12.tar.gz: holds no data/meta.mat and no data/ILSVRC2012_validation_ground_truth.txt",
    ),
    "a broken meta.mat": (
        mini.imagenet2012,
        lambda root: mini.write_tar(
            root / KIT, [("data/meta.mat", b"x" * 200), ("data/ILSVRC2012_validation_ground_truth.txt", b"1")], "w:gz"
        ),
        "t12.tar.gz: its meta.mat cannot be read",
    ),
    "no kit": (mini.imagenet2010, lambda root: (root / KIT_2010).unlink(), f"{KIT_2010} not found; download from"),
    "no test labels": (mini.imagenet2010, lambda root: (root / TEST_LABELS).unlink(), f"{TEST_LABELS} not found"),
    "a label that is no class": (
        mini.imagenet2010,
        lambda root: (root / TEST_LABELS).write_text("1\n2\n1001\n"),
        f"{TEST_LABELS}: has the label 1001; the classes are 1 to 1000",
    ),
    "the label 0": (
        mini.imagenet2010,
        lambda root: (root / TEST_LABELS).write_text("0\n2\n3\n"),
        f"{TEST_LABELS}: has the label 0; the classes are 1 to 1000",
    ),
    "compressed images": (
        mini.imagenet2010,
        lambda root: (root / "ILSVRC2010_images_val.tar").rename(root / "ILSVRC2010_images_val.tar.gz"),
        "ILSVRC2010_images_val.tar not found; decompress ILSVRC2010_images_val.tar.gz",
    ),
    "labels that are no numbers": (
        mini.imagenet2010,
        lambda root: (root / TEST_LABELS).write_text("1\ntwo\n"),
        f"{TEST_LABELS}: its labels are not numbers",
    ),
    "fewer labels": (
        mini.imagenet2010,
        lambda root: (root / TEST_LABELS).write_text("1\n2\n"),
        "ILSVRC2010_test_00000003.JPEG is not an image of ILSVRC2010",
    ),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives_with_a_development_kit(tmp_path, case):
    build, change, message = ARCHIVES[case]
    root = build(tmp_path / "set")
    change(root)
    with pytest.raises(UserError, match=message):
        prepare(root, tmp_path / "prepared")


def test_patches_replace_images_of_2010(tmp_path):
    root = mini.imagenet2010(tmp_path / "set")
    patch = mini.pixels("n99999999", 1)
    mini.write_tar(root / "patch_images.tar", [("patch_images/val/ILSVRC2010_val_00000002.JPEG", mini.png(patch))])
    data = datasets.load("imagenet2010", str(root), SIZE)
    images = {name: data.validation[i][0] for i, (name, *_) in enumerate(data.validation.listing)}
    assert (images["ILSVRC2010_val_00000002.JPEG"] == patch).all()
    assert (images["ILSVRC2010_val_00000001.JPEG"] == mini.IMAGES["validation"][0][2]).all()
