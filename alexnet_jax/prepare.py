"""Prepares a data set: 256×256 JPEGs, and the mean image and colour covariance of the training images.

  python -m alexnet_jax.prepare --dataset=imagenet --root=DIR --output=imagenet256
  python -m alexnet_jax.prepare --dataset=folder --root=DIR --output=photographs256
  python -m alexnet_jax.prepare --dataset=tfds:cifar10 --output=cifar10_256

`imagenet` reads ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar in DIR. `folder` reads train/CLASS/*, val/CLASS/*
and, if it exists, test/CLASS/*. `tfds:NAME` reads a TFDS data set that is stored as ArrayRecord. After an
interruption, run the same command again to continue.

Train on the result with --config.dataset.name=prepared --config.dataset.root=OUTPUT.
"""

from alexnet_jax.runtime import command_line

if __name__ == "__main__":
    command_line.start()

from alexnet_jax.data import datasets, images, preparation


@command_line.one_line_errors("run the same command again to continue")
def main():
    parser = command_line.Parser("alexnet_jax.prepare", __doc__)
    parser.add_argument("--dataset", required=True, help="imagenet, folder or tfds:NAME")
    parser.add_argument("--root", default="", help="the directory with the archives, or with train/ and val/")
    parser.add_argument("--output", required=True, help="the directory for the result; made if missing")
    parser.add_argument("--size", type=int, default=256, help="height and width of the images, in pixels (256)")
    parser.add_argument("--workers", type=int, default=preparation.available_cores(), help="processes (one per core)")
    parser.add_argument(
        "--max_undecodable",
        type=float,
        default=0.01,
        help="stop if a greater fraction of the images cannot be decoded (0.01)",
    )
    parser.add_argument(
        "--orientation",
        choices=images.ORIENTATIONS,
        help="upright: turn images by EXIF, as viewers do; stored: do not (imagenet: stored, as in 2012; else upright)",
    )
    args = parser.parse()
    kind = datasets.KINDS.get(args.dataset.partition(":")[0])
    if not args.root and kind and kind.preparable and kind.needs_root:
        parser.error(f"--dataset={args.dataset} needs --root=DIR")
    if not 1 <= args.size <= 4096:
        parser.error("--size must be from 1 to 4096")
    if args.workers < 1:
        parser.error("--workers must be above 0")
    if not 0 <= args.max_undecodable <= 1:
        parser.error("--max_undecodable must be from 0 to 1")
    images.ignore_warnings()
    preparation.prepare(**vars(args))


if __name__ == "__main__":
    main()
