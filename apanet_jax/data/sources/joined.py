"""Several data sets as one."""

from collections.abc import Sequence

import numpy as np

from apanet_jax.data.source import MOST_CLASSES, Sample, Source, Split
from apanet_jax.data.transforms import IGNORE
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
          UserError: two have the same name, or there are more classes than a label map can hold.
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

    def names(self, split: Split) -> list[str]:
        """Returns the names of all sources' images, one source behind the other."""
        return [
            f"{of}-{name}" for of, source in self._sources.items() for name in source.names(split)
        ]

    def read(self, split: Split, name: str) -> Sample:
        """Returns an image with its label map in the joined classes."""
        of = next(of for of in self._sources if name.startswith(f"{of}-"))
        source = self._sources[of]
        sample = source.read(split, name.removeprefix(f"{of}-"))
        joined = np.arange(256, dtype=np.uint8)
        for number, class_name in enumerate(source.class_names, 1):
            joined[number] = self.class_names.index(class_name) + 1
        joined[IGNORE] = IGNORE
        return Sample(name, sample.image, joined[sample.label], sample.note)


def _folds(sources: Sequence[Source]) -> tuple[tuple[str, ...], ...]:
    before: set[str] = set()
    folds = []
    for source in sources:
        rest = [tuple(name for name in fold if name not in before) for fold in source.folds]
        folds += filter(None, rest)
        before |= {name for fold in source.folds for name in fold}
    return tuple(folds)
