"""A CSV file that lists images and their labels."""

import csv
import functools
import io
import os
import pathlib
import unicodedata

from alexnet_jax import UserError
from alexnet_jax.data import sources
from alexnet_jax.data.base import Dataset, Split, check_class_names, normalized
from alexnet_jax.data.class_names import canonical, ordered
from alexnet_jax.data.kinds.folders import DIRECTORIES, SPLIT_OF
from alexnet_jax.runtime import files

COLUMNS = "its first line must name the columns path,label or path,label,split"


class CsvList(Dataset):
    """The images that a CSV file lists, 'csv:FILE', with the columns `path`, `label` and perhaps `split`.

    Paths are relative to the root or, without one, to the directory of the CSV file. Without the column `split`, all
    images are 'train'.
    """

    title = "a CSV file"
    takes_name = True
    needs_root = False
    layout = "the column `split` of a CSV file holds train, val and perhaps test"

    def __init__(self, name: str, root: str, orientation: str | None = None):
        self.file = files.absolute(name.partition(":")[2])
        super().__init__(f"csv:{self.file}", root, orientation)

    @property
    def directory(self) -> pathlib.Path:
        return files.absolute(self.root) if self.root else self.file.parent

    @property
    def recorded_name(self) -> str:
        return "csv"

    @property
    def absolute_root(self) -> str:
        return os.path.abspath(self.directory)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._images)

    @property
    def undivided(self) -> bool:
        return self.splits == ("train",)

    @functools.cached_property
    def _images(self) -> dict[str, list[tuple[str, str]]]:
        """{split: (path, class) of its images, sorted}. Raises UserError if a line is wrong or a file is missing."""
        path = self.file
        images: dict[str, list[tuple[str, str]]] = {}
        lines: dict[str, int] = {}
        missing = []
        if not files.exists(path):
            raise UserError(f"{path}: no such file; {COLUMNS}")
        text = files.read_text(path, "save it as UTF-8").removeprefix("\ufeff")
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            columns = [name.strip().lower() for name in next(rows, [])]
            if sorted(columns) not in (["label", "path"], ["label", "path", "split"]):
                raise UserError(f"{path}: has the columns {','.join(columns)!a}; {COLUMNS}")
            for row in rows:
                if not row:
                    continue
                place = f"{path}, line {rows.line_num}"
                if len(row) != len(columns):
                    raise UserError(
                        f"{place}: has {len(row)} fields instead of {len(columns)}; put texts with commas in quotes"
                    )
                fields = dict(zip(columns, row, strict=True))
                label, split = normalized(fields["label"].strip()), fields.get("split", "train").strip()
                if label == str(sources.SECRET):
                    raise UserError(f"{place}: has the label -1, which is none; write a class name, or remove the line")
                check_class_names(place, [label])
                if split.lower() not in SPLIT_OF:
                    raise UserError(f"{place}: has the split {split!a}; use train, val or test")
                name = os.path.normpath(fields["path"]) if fields["path"] else ""
                key = normalized(os.path.normpath(self.directory / name))
                if key in lines:
                    raise UserError(f"{place}: lists {name!a} again, after line {lines[key]}; list each image once")
                lines[key] = rows.line_num
                # File systems store the same name in different forms.
                forms = dict.fromkeys([name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))])
                there = [form for form in forms if form and os.path.isfile(self.directory / form)]
                name = there[0] if there else name
                missing += [] if there else [(place, name)]
                images.setdefault(SPLIT_OF[split.lower()], []).append((name, label))
        except csv.Error as error:
            raise UserError(f"{path}, line {rows.line_num}: is not CSV ({error}); {COLUMNS}") from error
        if missing:
            place, name = missing[0]
            raise UserError(
                f"{place}: there is no file {str(self.directory / name)!a}"
                + (f", and {len(missing) - 1} more are missing" if missing[1:] else "")
                + "; paths are relative to --root or, without it, to the CSV file"
            )
        if not images:
            raise UserError(f"{path}: lists no images; {COLUMNS}")
        return {split: sorted(images[split]) for split in DIRECTORIES if split in images}

    def load(self, split: str, image_size: int, stretch: bool = False) -> Split:
        split = SPLIT_OF.get(split, split)
        if split not in self._images:
            raise UserError(f"{self.file}: lists no {split} images; {self.layout}")
        names = ordered(label for _, label in self._images[split])
        label_of = {name: i for i, name in enumerate(names)}
        images = [(name, label_of[label]) for name, label in self._images[split]]
        source = sources.FileSource(str(self.directory), images, image_size, stretch, self.orientation)
        return Split(source, canonical(names))
