"""What `alexnet_jax.prepare` finds in a directory: a data set, its splits, and the images to set aside."""

from alexnet_jax import UserError
from alexnet_jax.data import base, datasets, sources, views
from alexnet_jax.data.class_names import readable
from alexnet_jax.runtime import text

SAMPLES = 10  # images that a dry run shows


def find_dataset(name: str, root: str, orientation: str | None = None) -> base.Dataset:
    """The data set of this name. Raises UserError if it does not exist or cannot be prepared."""
    kind = datasets.KINDS.get(name.partition(":")[0])
    if name != datasets.AUTO and not (kind and kind.preparable):
        raise UserError(f"--dataset={name}: use {datasets.AUTO}, {datasets.kind_names(preparable=True)}")
    found = datasets.find(name, root, orientation)
    if not found.preparable:
        raise UserError(f"--root={root}: holds a set that is prepared already; train on it (config.dataset.root)")
    return found


def find(
    dataset: base.Dataset, size: int, holdout: float | None = None
) -> tuple[dict[str, sources.EncodedSource], tuple[str, ...]]:
    """The sources of a data set, {split: source}, and its class names. Raises UserError if it cannot be prepared.

    Args:
      size: height and width of the images, in pixels.
      holdout: see `preparation.prepare`.
    """
    train, class_names = dataset.load("train", size)
    base.check_class_names(dataset.root or dataset.name, class_names)
    splits = {"train": check_encoded(train)}
    for split in dataset.splits:
        if split in ("validation", "test"):
            try:
                source = check_encoded(dataset.load(split, size).relabelled(class_names))
                source.read(0)
            except sources.SecretLabelsError:
                text.print_line(f"leaving out {split}: its labels are secret")
            else:
                splits[split] = source
        elif split != "train":
            text.print_line(f"leaving out {split}: neither train nor validation nor test")
    check_classes(splits, class_names)
    if holdout and "validation" in splits:
        raise UserError(
            f"--holdout={holdout}: {dataset.root or dataset.name} has validation images already; leave it out"
        )
    if holdout:
        splits["train"], held_out = views.hold_out(splits["train"], holdout, class_names)
        splits = {"train": splits.pop("train"), "validation": held_out} | splits
        text.print_line(f"set aside {len(held_out):,} training images for validation, by a hash of their names")
    if len(splits) == 1:
        raise base.no_images_to_measure_with(dataset, tuple(splits))
    return splits, class_names


def check_classes(splits: dict[str, sources.EncodedSource], class_names: tuple[str, ...]) -> None:
    """Raises UserError if a class has images to measure with, but none to train on; prints how many have none at all.

    A TFDS set does not list its labels, and is not checked.
    """
    if not splits["train"].lists_labels:
        return
    labels = {split: {label for _, label in source.labels_by_name} for split, source in splits.items()}
    for split, of_split in labels.items():
        if lacking := sorted(of_split - labels["train"]):
            names = ", ".join(class_names[label] for label in lacking[:3]) + (", …" if lacking[3:] else "")
            raise UserError(
                f"{splits[split].origin}: has images of {len(lacking)} classes without training images ({names}); add "
                "some, or remove the classes here"
            )
    if count := len(class_names) - len(labels["train"]):
        text.print_line(f"{count} of the {len(class_names)} classes have no images")


def print_samples(splits: dict[str, sources.EncodedSource], class_names: tuple[str, ...]) -> None:
    """Prints the splits of a data set, and SAMPLES of its training images with their labels."""
    for split, source in splits.items():
        classes = f" of {len({label for _, label in source.labels_by_name})} classes" if source.lists_labels else ""
        text.print_line(f"{split}: {len(source):,} images{classes}, orientation {source.orientation}")
    train = splits["train"]
    text.print_line("some training images: label, class, name")
    for i in sorted({len(train) * i // SAMPLES for i in range(SAMPLES)}):
        _, label = train.read(i)
        text.print_line(f"{label:6}  {readable(class_names[label])}  {train.name(i)}")


def check_encoded(source: sources.Source) -> sources.EncodedSource:
    """The source itself. Raises TypeError if a preparable kind of data set loads images that are not encoded."""
    if not isinstance(source, sources.EncodedSource):
        raise TypeError(f"{source.origin}: not a sources.EncodedSource")
    return source
