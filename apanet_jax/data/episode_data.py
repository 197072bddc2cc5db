"""The episodes of a run: drawn from records by the protocol, and loaded in batches."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from apanet_jax.config.definitions import (
    AugmentationSettings,
    DataSettings,
    EvaluationSettings,
    Settings,
)
from apanet_jax.data.episode_files import read_episodes
from apanet_jax.data.episodes import (
    Draw,
    Episode,
    EpisodeLists,
    draw_evaluation,
    draw_training,
    episode_lists,
    left_out_line,
    with_hidden_share,
)
from apanet_jax.data.folds import base_classes, novel_classes
from apanet_jax.data.kept_features import (
    Embed,
    KeptFeatures,
    keep_test_features,
    keep_training_features,
    load_kept_evaluation_episode,
    load_kept_training_episode,
)
from apanet_jax.data.loader import (
    EpisodeIterator,
    batches,
    load_evaluation_episode,
    load_training_episode,
)
from apanet_jax.data.records.reading import Records, RecordSplit
from apanet_jax.data.transforms import Augmentation
from apanet_jax.models.backbones import spec

_LABEL_BUCKET = 32


@dataclasses.dataclass(frozen=True)
class FeatureKeeper:
    """Keeps the features of a frozen backbone on disk; they are embedded when first asked for.

    Attributes:
      embed: from images `[B, S, S, 3]` to their features.
      directory: features are kept in folders below it.
      identity: everything that the features of an image depend on.
      maps: what is kept, see `data.kept_features.KeptFeatures`.
      augmentation: of training images.
      multiple: see `EpisodeData`.
      views: augmented views of a training image.
      seed: of the augmentation.
      workers: processes that load images.
      batch_size: images embedded together.
    """

    embed: Embed
    directory: Path
    identity: str
    maps: tuple[str, ...]
    augmentation: Augmentation
    multiple: int
    views: int
    seed: int
    workers: int
    batch_size: int

    def of_training(self, split: RecordSplit) -> KeptFeatures:
        """Returns the kept views of the training images."""
        return keep_training_features(
            self.embed,
            split,
            self.directory,
            self.identity,
            maps=self.maps,
            augmentation=self.augmentation,
            views=self.views,
            seed=self.seed,
            workers=self.workers,
            batch_size=self.batch_size,
        )

    def of_test(self, split: RecordSplit) -> KeptFeatures:
        """Returns the kept test images."""
        return keep_test_features(
            self.embed,
            split,
            self.directory,
            self.identity,
            maps=self.maps,
            size=self.augmentation.size,
            multiple=self.multiple,
            workers=self.workers,
            batch_size=self.batch_size,
        )


@dataclasses.dataclass(frozen=True)
class EpisodeData:
    """The episodes that a run trains on and is tested with.

    Attributes:
      records: the data set.
      base: what training episodes are drawn from.
      novel: what test episodes are drawn from.
      listed: the test episodes of a given list, in place of those drawn from `novel`; or none.
      augmentation: of training images; its size is that of all images.
      seed: of the training.
      shot: supports of a training episode.
      batch_size: episodes of a training batch.
      min_area: pixels of a class that put an image on its list.
      multiple: of which the sides of a test image are multiples in its square, in pixels.
      evaluation: the settings of the test episodes.
      workers: processes that load images.
      keeper: keeps the features that episodes then hold in place of images; None: they hold images.
    """

    records: Records
    base: EpisodeLists
    novel: EpisodeLists
    listed: tuple[Episode, ...]
    augmentation: Augmentation
    seed: int
    shot: int
    batch_size: int
    min_area: int
    multiple: int
    evaluation: EvaluationSettings
    workers: int
    keeper: FeatureKeeper | None = None

    @property
    def test_split(self) -> RecordSplit:
        """The images that test episodes are made of."""
        return self.records.split("val")

    @property
    def test_shots(self) -> tuple[int, ...]:
        """The numbers of supports to test with: the given list's, or as set."""
        return (len(self.listed[0].supports),) if self.listed else self.evaluation.shots

    @property
    def test_count(self) -> int:
        """How many test episodes there are: those of the given list, or as set."""
        return len(self.listed) or self.evaluation.episodes

    @property
    def label_side(self) -> int:
        """Side of a square that every test label fits into, the same for images of like sizes."""
        return -(-int(self.test_split.sizes.max()) // _LABEL_BUCKET) * _LABEL_BUCKET

    def left_out(self) -> list[str]:
        """Returns a line for training and one for evaluation that name classes without episodes."""
        parts = [(self.base, "training", self.shot)]
        if not self.listed:
            parts.append((self.novel, "evaluation", max(self.test_shots)))
        lines = [
            left_out_line(
                lists, purpose, self.records.class_names, shot=shot, min_area=self.min_area
            )
            for lists, purpose, shot in parts
        ]
        return list(filter(None, lines))

    def draw_test(self, shot: int) -> Draw:
        """Returns the test episodes with `shot` supports."""
        if self.listed:
            return functools.partial(operator.getitem, self.listed)
        return functools.partial(draw_evaluation, self.novel, seed=self.evaluation.seed, shot=shot)

    def test_episodes(self, shot: int, numbers: Sequence[int]) -> list[Episode]:
        """Returns the test episodes of some numbers with `shot` supports."""
        return list(map(self.draw_test(shot), numbers))

    def kept_test_features(self) -> KeptFeatures | None:
        """Returns the kept features of the test images, embedded if need be; None: none are."""
        return self.keeper.of_test(self.test_split) if self.keeper else None

    def training_batches(self, start: int) -> EpisodeIterator:
        """Returns the endless training batches from batch `start` on: this process's part."""
        draw = functools.partial(
            draw_training,
            self.base,
            seed=self.seed,
            shot=self.shot,
            batch_size=self.batch_size,
        )
        split = self.records.split("train")
        if self.keeper:
            kept = self.keeper.of_training(split)
            load = functools.partial(load_kept_training_episode, kept, draw, seed=self.seed)
        else:
            load = functools.partial(
                load_training_episode, split, draw, self.augmentation, seed=self.seed
            )
        return batches(
            load,
            count=None,
            batch_size=self.batch_size,
            start=start,
            workers=self.workers,
            process=jax.process_index(),
            processes=jax.process_count(),
        )

    def test_batches(self, shot: int, numbers: Sequence[int]) -> EpisodeIterator:
        """Returns the batches of the test episodes of some numbers with `shot` supports."""
        draw, split = self.draw_test(shot), self.test_split
        if kept := self.kept_test_features():
            load = functools.partial(
                load_kept_evaluation_episode, kept, split, draw, self.label_side
            )
        else:
            load = functools.partial(
                load_evaluation_episode,
                split,
                draw,
                self.augmentation.size,
                self.label_side,
                multiple=self.multiple,
            )
        return batches(
            functools.partial(_load_numbered, load, numbers),
            count=len(numbers),
            batch_size=self.evaluation.batch_size,
            workers=self.workers,
        )


def _load_numbered(load: Callable, numbers: Sequence[int], position: int):
    return load(numbers[position])


def episode_data(
    settings: Settings, records: Records, keeper: FeatureKeeper | None = None
) -> EpisodeData:
    """Returns the episodes of a run.

    Args:
      settings: of the run.
      records: the data set.
      keeper: see `EpisodeData`.

    Raises:
      UserError: there is no such fold, a class has too few images, or the list cannot be used.
    """
    listed, novel_ids = (), novel_classes(records, settings.fold)
    evaluation, multiple = settings.evaluation, fitting_multiple(settings.backbone.name)
    base = training_lists(
        settings.data, records, fold=settings.fold, shot=settings.shot, seed=settings.seed
    )
    if evaluation.list:
        listed = read_episodes(Path(evaluation.list), records, novel_ids)
    novel = episode_lists(
        records.split("val"),
        novel_ids,
        shot=1 if listed else max(evaluation.shots),
        support_gap=settings.data.support_gap,
        min_area=settings.data.min_area,
        class_names=records.class_names,
    )
    return EpisodeData(
        records=records,
        base=base,
        novel=novel,
        listed=listed,
        augmentation=augmentation_of(settings.augmentation, settings.image_size),
        seed=settings.seed,
        shot=settings.shot,
        batch_size=settings.training.batch_size,
        min_area=settings.data.min_area,
        multiple=multiple,
        evaluation=evaluation,
        workers=settings.workers,
        keeper=keeper,
    )


def fitting_multiple(backbone: str) -> int:
    """Returns of what the sides of a test image are multiples: the patch, or the protocol's 8."""
    return spec(backbone).patch or 8


def training_lists(
    data: DataSettings, records: Records, *, fold: int, shot: int, seed: int
) -> EpisodeLists:
    """Returns what the training episodes of a fold are drawn from.

    Args:
      data: which images may be used.
      records: the data set.
      fold: whose classes are novel.
      shot: supports of an episode.
      seed: of the choice of images where `data.hidden_share` sets their share.

    Raises:
      UserError: there is no such fold, or a base class has too few images.
    """
    split, novel = records.split("train"), novel_classes(records, fold)
    base = episode_lists(
        split,
        base_classes(records, fold),
        shot=shot,
        without=novel if data.training_list == "no_novel" else (),
        support_gap=data.support_gap,
        min_area=data.min_area,
        class_names=records.class_names,
    )
    if data.hidden_share < 0:
        return base
    return with_hidden_share(base, split, novel, data.hidden_share, seed=seed)


def augmentation_of(settings: AugmentationSettings, size: int) -> Augmentation:
    """Returns the transforms of training images of `size` pixels a side."""
    return Augmentation(size=size, **dataclasses.asdict(settings))
