"""Several data sets as one."""

from collections.abc import Sequence

import numpy as np

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.data.sources.source import MOST_CLASSES, SPLITS, Sample, Source, Split
from apanet_jax.runtime.errors import UserError


class JoinedSource:
    """The images of several sources; classes of the same name are one class.

    An image is called `SOURCE-NAME`. What only one source labels may stand unlabelled in the images
    of another. The folds are those of each source in turn: a class that is novel in a fold of one
    is left out of the folds of those behind it.
    """

    def __init__(self, sources: Sequence[Source]):
        """Joins their classes and folds.

        Args:
          sources: of different names.

        Raises:
          UserError: two have the same name, or give an image the same one, or there are more
            classes than a label map can hold.
        """
        names = [source.name for source in sources]
        if len(set(names)) < len(names):
            raise UserError(f"{', '.join(names)}: data sets that are joined need different names")
        self._sources = dict(zip(names, sources, strict=True))
        self.name = "+".join(names)
        self.origin = " + ".join(source.origin for source in sources)
        self.class_names = tuple(dict.fromkeys(n for s in sources for n in s.class_names))
        self.folds = _folds(sources)
        self.notes = [note for source in sources for note in getattr(source, "notes", ())]
        if len(self.class_names) > MOST_CLASSES:
            raise UserError(f"{len(self.class_names)} classes, expected at most {MOST_CLASSES}")
        self._images = {split: self._images_of(split) for split in SPLITS}

    def names(self, split: Split) -> list[str]:
        """Returns the names of all sources' images, one source behind the other."""
        return list(self._images[split])

    def read(self, split: Split, name: str) -> Sample:
        """Returns an image with its label map in the joined classes."""
        source, own_name = self._images[split][name]
        sample = source.read(split, own_name)
        joined = np.arange(256, dtype=np.uint8)
        for number, class_name in enumerate(source.class_names, 1):
            joined[number] = self.class_names.index(class_name) + 1
        joined[IGNORE] = IGNORE
        return Sample(name, sample.image, joined[sample.label], sample.note)

    def _images_of(self, split: Split) -> dict[str, tuple[Source, str]]:
        """Returns the source of each image of a split, and its name there."""
        found: dict[str, tuple[Source, str]] = {}
        for of, source in self._sources.items():
            for own_name in source.names(split):
                name = f"{of}-{own_name}"
                if name in found:
                    raise UserError(
                        f"two images of {split} would be called {name!r}, one of "
                        f"{found[name][0].name} and one of {of}: rename a data set's folder"
                    )
                found[name] = source, own_name
        return found


def _folds(sources: Sequence[Source]) -> tuple[tuple[str, ...], ...]:
    before: set[str] = set()
    folds = []
    for source in sources:
        rest = [tuple(name for name in fold if name not in before) for fold in source.folds]
        folds += filter(None, rest)
        before |= {name for fold in source.folds for name in fold}
    return tuple(folds)
