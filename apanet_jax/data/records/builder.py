"""The tensorflow-datasets builder that writes images and label maps as array_record files.

It works without TensorFlow: images are written as the bytes they came in, label maps as gray PNGs.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
import tensorflow_datasets as tfds

from apanet_jax.data.sources.source import Sample


class FewShotRecords(tfds.core.GeneratorBasedBuilder):
    """Records `{"name", "image", "label"}` in the order in which they are given."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, directory: Path, samples: Mapping[str, Iterable[Sample]]):
        """Prepares to write `samples`, by split, below `directory`."""
        self._samples = samples
        super().__init__(data_dir=str(directory), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "name": tfds.features.Text(),
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self._samples}

    def _generate_examples(self, split):
        for number, sample in enumerate(self._samples[split]):
            yield (
                number,
                {"name": sample.name, "image": sample.image, "label": _png(sample.label)},
            )


def _png(label: np.ndarray) -> bytes:
    return cv2.imencode(".png", label)[1].tobytes()
