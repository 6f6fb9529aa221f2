"""Evaluates trained nets on every example of a split: loss, top-1 and top-5 error (section 4.1).

  python -m alexnet_jax.evaluate --workdir=DIR [--workdir=DIR2 …] [--split=validation]
  python -m alexnet_jax.evaluate --workdir=DIR --dataset=auto --root=imagenet-r --root=imagenet-a --among=present

The nets predict by the centre view and by the paper's ten views: the four corners, the centre, and their mirror images.
The softmax probabilities of the views are averaged, and so are those of several nets, an ensemble.

--root may be repeated, for a table of several data sets. A data set may have some of the nets' classes only. By default
the nets still choose among all of theirs. --among=present makes them choose among those that the data set has.
"""

import argparse
import os
from typing import Any

from alexnet_jax import UserError
from alexnet_jax.runtime import command_line

if __name__ == "__main__":
    command_line.start()

from alexnet_jax.analysis import ensemble, inference
from alexnet_jax.data.class_names import readable
from alexnet_jax.data.sources import Source
from alexnet_jax.runtime import files, text


@command_line.one_line_errors("nothing was written")
def main():
    parser = command_line.Parser("alexnet_jax.evaluate", __doc__)
    parser.add_argument(
        "--workdir", action="append", required=True, help="the directory of a run; several form an ensemble"
    )
    command_line.add_data_flags(parser, several=True)
    parser.add_argument(
        "--among",
        choices=("all", "present"),
        default="all",
        help="the classes to choose from: all of the net's, or those that the images have (all)",
    )
    parser.add_argument("--batch_size", type=int, default=128, help="images at a time, all devices together (128)")
    parser.add_argument("--per_class", action="store_true", help="also print a table of the classes")
    parser.add_argument("--wrong", action="store_true", help="also print a list of the wrong examples")
    parser.add_argument("--json", help="the JSON file to write (evaluation.json in the first --workdir)")
    args = parser.parse()
    if args.batch_size < 1:
        parser.error("--batch_size must be above 0")
    names, roots = args.dataset or [None], args.root or [None]
    if 1 not in (len(names), len(roots)) and len(names) != len(roots):
        parser.error(f"{len(names)} times --dataset, {len(roots)} times --root: use one of them once, or both equally")
    count = max(len(names), len(roots))
    data_sets = list(zip(names * (count // len(names)), roots * (count // len(roots)), strict=True))
    command_line.set_up_jax()
    evaluate(args, data_sets)


def evaluate(args: argparse.Namespace, data_sets: list[tuple[str | None, str | None]]) -> None:
    """Evaluates the nets that the flags of `main` name on data sets, (name, root); writes and prints the result."""
    trained = ensemble.load(args.workdir)
    path = files.absolute(args.json) if args.json else trained.members[0].workdir / "evaluation.json"
    if not os.access(path.parent, os.W_OK) or path.exists() and not path.is_file():
        raise UserError(f"--json={path}: must be a file in a writable directory")
    loaded = [inference.load_split(trained, name, root, args.split) for name, root in data_sets]
    results = [evaluate_split(args, trained, *of_set) for of_set in loaded]
    nets = {
        "workdirs": [str(member.workdir) for member in trained.members],
        "steps": [member.step for member in trained.members],
    }
    try:
        result = nets | (results[0] if len(results) == 1 else {"datasets": results})
        files.write_json(path, result, remedy="set --json to another file")
    finally:
        for one in results:
            if len(results) == 1 or args.per_class or args.wrong:
                print_table(one)
        if len(results) > 1:
            print_data_sets(results)
        present, classes = {one["classes_present"] for one in results}, len(trained.class_names)
        if present != {classes}:
            count = f"{present.pop()} of the {classes} classes have images; " if len(results) == 1 else ""
            chosen = "those of the images" if args.among == "present" else f"all {classes} classes"
            print(f"\n{count}errors are among {chosen} (--among)")
    print()
    text.print_line(f"written to {path}")


def evaluate_split(
    args: argparse.Namespace, trained: ensemble.Ensemble, name: str, root: str, split: str, source: Source
) -> dict[str, Any]:
    """Evaluates nets on a split that `inference.load_split` has loaded."""
    nets = f"{len(trained.members)} nets" if len(trained.members) > 1 else f"step {trained.members[0].step}"
    text.print_line(f"{nets}, {len(source):,} {split} images of {name} {root}".rstrip())
    among = inference.labels_of(source) if args.among == "present" else None
    outputs = inference.classify_source(trained, source, 10, args.batch_size, among)
    present = len(set(outputs["label"].tolist()))
    result = {"dataset": name, "root": root, "split": split, "classes_present": present, "among": args.among}
    result |= inference.errors(outputs)
    if args.per_class:
        result["classes"] = inference.by_class(outputs, trained.class_names)
    if args.wrong:
        result["wrong"] = inference.wrong_examples(outputs, source, trained.class_names)
    return result


def print_data_sets(results: list[dict[str, Any]]) -> None:
    """Prints a table of evaluations on several data sets."""
    names = [text.printable(f"{r['dataset']} {r['root']}".rstrip()) for r in results]
    width = max(map(len, names))
    ways = list(inference.TITLES)
    heads = [f"{inference.TITLES[way]} {name}" for way in ways for name in ("top-1", "top-5")]
    print(f"\n{'data set':{width}} {'split':10} {'images':>8} {'classes':>7} " + " ".join(f"{h:>15}" for h in heads))
    for name, r in zip(names, results, strict=True):
        errors = [r[way][error] for way in ways for error in ("top1_error", "top5_error")]
        print(
            f"{name:{width}} {text.printable(r['split']):10} {r['num_examples']:8,} {r['classes_present']:7} "
            + " ".join(f"{error:15.2%}" for error in errors)
        )


def print_table(result: dict[str, Any]) -> None:
    """Prints an evaluation, with its classes and wrong examples if it has them."""
    print(f"{'view':10} {'loss':>8} {'top-1 error':>12} {'top-5 error':>12}")
    for way, title in inference.TITLES.items():
        r = result[way]
        print(f"{title:10} {r['loss']:8.4f} {r['top1_error']:12.2%} {r['top5_error']:12.2%}")
    if "classes" in result:
        print(f"\n{'images':>6} {'top-1':>8} {'top-5':>8}  class, and the most frequent wrong class (ten views)")
        for row in sorted(result["classes"], key=lambda row: -row["ten_crop"]["top1_error"]):
            r, confused = row["ten_crop"], row["confused_with"]
            taken_for = f" ← {confused[1]}× {readable(confused[0])}" if confused else ""
            name = readable(row["class"])
            text.print_line(f"{row['num_examples']:6} {r['top1_error']:8.2%} {r['top5_error']:8.2%}  {name}{taken_for}")
    if "wrong" in result:
        print(f"\n{len(result['wrong'])} wrong by ten views: image, class, predicted class")
        for row in result["wrong"]:
            best = row["predictions"][0]
            cells = (row["image"], readable(row["class"]), f"{best['name']} {best['probability']:.1%}")
            print("\t".join(map(text.printable, cells)))


if __name__ == "__main__":
    main()
