"""Prepares a data set: 256×256 JPEGs, and the mean image and colour covariance of the training images.

  python -m alexnet_jax.prepare --root=DIR --dry_run
  python -m alexnet_jax.prepare --root=DIR --output=imagenet256
  python -m alexnet_jax.prepare --labels=FILE.csv --holdout=0.1 --output=photographs256

It finds out what lies in DIR, or in an archive: ImageNet's official archives, ImageNet from Kaggle or Hugging Face,
WebDataset, CIFAR-10 and CIFAR-100, Tiny ImageNet, a folder of images, or a TFDS data set that is stored as ArrayRecord.
--dry_run only prints what it found. If DIR holds several data sets, --dataset names one. docs/getting-data.md has the
layouts. After an interruption, run the same command again to continue.

Train on the result with --config.dataset.name=prepared --config.dataset.root=OUTPUT.
"""

from alexnet_jax.runtime import command_line

if __name__ == "__main__":
    command_line.start()

from alexnet_jax.data import datasets, images, preparation
from alexnet_jax.runtime import files


@command_line.one_line_errors("run the same command again to continue")
def main():
    parser = command_line.Parser("alexnet_jax.prepare", __doc__)
    parser.add_argument(
        "--dataset",
        default=datasets.AUTO,
        help=f"{datasets.AUTO}, {datasets.kind_names(preparable=True)} ({datasets.AUTO})",
    )
    parser.add_argument("--root", default="", help="the directory of the data set, or an archive that is read in place")
    parser.add_argument("--labels", help="a CSV file with the columns path,label or path,label,split")
    parser.add_argument("--output", default="", help="the directory for the result; made if missing")
    parser.add_argument("--size", type=int, help="height and width in pixels (256; Tiny ImageNet 64, CIFAR 32)")
    parser.add_argument("--workers", type=int, default=preparation.available_cores(), help="processes (one per core)")
    parser.add_argument(
        "--holdout", type=float, help="the part of the training images to set aside for validation, if there are none"
    )
    parser.add_argument(
        "--max_undecodable",
        type=float,
        default=0.01,
        help="stop if a greater fraction of the images cannot be decoded (0.01)",
    )
    parser.add_argument(
        "--orientation",
        choices=images.ORIENTATIONS,
        help="upright: turn images by EXIF, as viewers do; stored: do not (ImageNet: stored, as in 2012; else upright)",
    )
    parser.add_argument("--dry_run", action="store_true", help="only print what was found, and what it would take")
    args = parser.parse()
    labels = vars(args).pop("labels")
    if labels is not None:
        if args.dataset != datasets.AUTO or not labels:
            parser.error("--labels=FILE.csv: name a file, and leave out --dataset")
        args.dataset = f"csv:{files.absolute(labels)}"
    kind = datasets.KINDS.get(args.dataset.partition(":")[0])
    if not args.root and (args.dataset == datasets.AUTO or kind and kind.preparable and kind.needs_root):
        parser.error(f"--dataset={args.dataset} needs --root=DIR")
    if not args.output and not args.dry_run:
        parser.error("--output=DIR is needed, or --dry_run")
    if args.size is not None and not 1 <= args.size <= 4096:
        parser.error("--size must be from 1 to 4096")
    if args.workers < 1:
        parser.error("--workers must be above 0")
    if args.holdout is not None and not 0 < args.holdout < 1:
        parser.error("--holdout must be between 0 and 1")
    if not 0 <= args.max_undecodable <= 1:
        parser.error("--max_undecodable must be from 0 to 1")
    images.ignore_warnings()
    preparation.prepare(**vars(args))


if __name__ == "__main__":
    main()
