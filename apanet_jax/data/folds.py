"""Which classes are novel in a fold, and which are learned."""

from apanet_jax.config.definitions import NO_FOLD
from apanet_jax.data.records.reading import Records
from apanet_jax.runtime.errors import UserError


def novel_classes(records: Records, fold: int) -> tuple[int, ...]:
    """Returns the class ids (from 1) that fold `fold` tests and never trains on.

    None is novel in `NO_FOLD`, which trains on all classes, for use and not for a score.

    Raises:
      UserError: there is no such fold.
    """
    if fold == NO_FOLD:
        return ()
    if not 0 <= fold < len(records.folds):
        raise UserError(
            f"{records.name} has no fold {fold}: its folds are 0 to {len(records.folds) - 1}"
        )
    names = records.folds[fold]
    return tuple(i for i, name in enumerate(records.class_names, 1) if name in names)


def base_classes(records: Records, fold: int) -> tuple[int, ...]:
    """Returns the class ids that fold `fold` trains on: all but the novel ones.

    Raises:
      UserError: there is no such fold, or every class is novel in it.
    """
    novel = novel_classes(records, fold)
    base = tuple(i for i in range(1, len(records.class_names) + 1) if i not in novel)
    if not base:
        raise UserError(
            f"fold {fold} of {records.name} tests every class, which leaves none to train on: take "
            "some out of it in folds.json"
        )
    return base
