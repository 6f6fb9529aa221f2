"""A TFDS data set of cats and dogs, built from a folder of images without TensorFlow."""

import tensorflow_datasets as tfds


class Pictures(tfds.core.GeneratorBasedBuilder):
    """SPLIT/class_0 and SPLIT/class_1 below `folder`; the labels of the split `secret` are not published."""

    VERSION = tfds.core.Version("1.0.0")
    folder, secret = None, None

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["cat", "dog"])}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {directory.name: self._generate_examples(directory) for directory in self.folder.iterdir()}

    def _generate_examples(self, directory):
        for label in (0, 1):
            for path in sorted((directory / f"class_{label}").iterdir()):
                yield f"{label} {path.name}", {"image": path, "label": -1 if directory.name == self.secret else label}


def builder(folder, data_dir, secret=None, file_format="array_record"):
    """To be built by `download_and_prepare`."""
    Pictures.folder, Pictures.secret = folder, secret
    return tfds.builder("pictures", data_dir=data_dir, file_format=file_format)
