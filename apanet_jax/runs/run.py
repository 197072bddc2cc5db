"""From a config to the things a run is made of: data, episodes, network, weights, devices."""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int
from ml_collections import ConfigDict

from apanet_jax.config import settings
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
from apanet_jax.data.records import Records, open_records
from apanet_jax.data.transforms import Augmentation
from apanet_jax.evaluation.embed_once import TestFeatures, count_episodes_once
from apanet_jax.evaluation.feature_store import FeatureStore
from apanet_jax.evaluation.metrics import EpisodeCounts
from apanet_jax.evaluation.protocol import count_episodes, make_count
from apanet_jax.models.network import Network, Parameters
from apanet_jax.runtime import processes
from apanet_jax.runtime.devices import data_mesh, replicated
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights import load
from apanet_jax.weights.network import load_parameters, make_network

_LABEL_BUCKET = 32

_EMBEDDED: dict[str, Any] = {}
"""The test features of this process, with their identity: at most one, for they are large."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run is made of.

    Attributes:
      config: the settings, checked.
      records: the data set.
      base: the episodes to train on.
      novel: the episodes to test on.
      listed: the test episodes of a given list, in place of those drawn from `novel`; or none.
      network: backbone and head.
      backbone_parameters: frozen, on every device of every process.
      given_head: the head's parameters of a given checkpoint, on every device; None where they are
        the workdir's own.
      mesh: the devices, of all processes.
      fingerprint: of everything that the trained parameters depend on.
      weights_fingerprint: of the backbone's weights.
      weights_origin: the file that they came from.
    """

    config: ConfigDict
    records: Records
    base: EpisodeLists
    novel: EpisodeLists
    listed: tuple[Episode, ...]
    network: Network
    backbone_parameters: Parameters
    given_head: Parameters | None
    mesh: Mesh
    fingerprint: str
    weights_fingerprint: str
    weights_origin: load.Origin

    @property
    def local_mesh(self) -> Mesh:
        """The devices of this process: each embeds and scores on its own."""
        return processes.local_mesh(self.mesh)

    @property
    def local_backbone_parameters(self) -> Parameters:
        """Those on the devices of this process."""
        return processes.local(self.backbone_parameters, self.mesh)

    @property
    def steps(self) -> int:
        """Training steps: as set, or epochs times the whole batches of the training list."""
        training = self.config.training
        per_epoch = len(self.base.queries) // training.batch_size
        return training.steps or training.epochs * per_epoch

    def training_batches(self, start: int) -> EpisodeIterator:
        """Returns the endless training batches from batch `start` on: this process's pieces."""
        config = self.config
        draw = functools.partial(
            draw_training,
            self.base,
            seed=config.seed,
            shot=config.shot,
            batch_size=config.training.batch_size,
        )
        if config.features.keep:
            load_episode = functools.partial(
                load_kept_training_episode, self.kept_training_features(), draw, seed=config.seed
            )
        else:
            load_episode = functools.partial(
                load_training_episode,
                self.records.split("train"),
                draw,
                augmentation(config),
                seed=config.seed,
            )
        return batches(
            load_episode,
            count=None,
            batch_size=config.training.batch_size,
            start=start,
            workers=config.workers,
            process=jax.process_index(),
            processes=jax.process_count(),
        )

    @property
    def test_shots(self) -> tuple[int, ...]:
        """The numbers of supports to test with: the given list's, or as set."""
        return (len(self.listed[0].supports),) if self.listed else self.config.evaluation.shots

    @property
    def test_count(self) -> int:
        """How many test episodes there are: those of the given list, or as set."""
        return len(self.listed) or self.config.evaluation.episodes

    def draw_test(self, shot: int) -> Draw:
        """Returns the test episodes with `shot` supports."""
        if self.listed:
            return functools.partial(operator.getitem, self.listed)
        return functools.partial(
            draw_evaluation, self.novel, seed=self.config.evaluation.seed, shot=shot
        )

    def evaluation_batches(self, shot: int, episodes: int | Sequence[int]) -> EpisodeIterator:
        """Returns the batches of the first test episodes with `shot` supports.

        Args:
          shot: supports.
          episodes: how many, or the numbers of those that are wanted.
        """
        config = self.config
        split = self.records.split("val")
        numbers = range(episodes) if isinstance(episodes, int) else episodes
        draw, side = self.draw_test(shot), _label_side(split.sizes)
        if config.features.keep:
            load_episode = functools.partial(
                load_kept_evaluation_episode, self.kept_test_features(), split, draw, side
            )
        else:
            load_episode = functools.partial(
                load_evaluation_episode, split, draw, config.image_size, side
            )
        return batches(
            functools.partial(_load_numbered, load_episode, numbers),
            count=len(numbers),
            batch_size=config.evaluation.batch_size,
            workers=config.workers,
        )

    def count_episodes(
        self, parameters: Parameters, shot: int, episodes: int
    ) -> tuple[EpisodeCounts, Int[np.ndarray, " episodes"]]:
        """Returns the counts and classes of a head's first `episodes` test episodes.

        Each process counts its share, and all of them get the counts of all.

        Args:
          parameters: of the head.
          shot: supports.
          episodes: how many.
        """
        mine = processes.share(episodes)
        # A head may have been trained on other devices.
        own = jax.device_put(processes.local(parameters, self.mesh), replicated(self.local_mesh))
        counts, class_id = self._count(own, shot, mine)
        gather = functools.partial(processes.gathered, count=episodes)
        return EpisodeCounts(*map(gather, counts)), gather(class_id)

    def _count(
        self, parameters: Parameters, shot: int, numbers: Sequence[int]
    ) -> tuple[EpisodeCounts, Int[np.ndarray, " episodes"]]:
        if not numbers:
            # There are more processes than episodes.
            none = np.zeros((0, 2), np.int32)
            return EpisodeCounts(none, none), none[:, 0]
        config, description = self.config.evaluation, f"evaluating {shot}-shot"
        if config.embed_once:
            split = self.records.split("val")
            features = self._embed_test_pictures(numbers, {*self.test_shots, shot})
            return count_episodes_once(
                features,
                self.network,
                parameters,
                self.local_mesh,
                split,
                self._test_episodes(shot, numbers),
                label_side=_label_side(split.sizes),
                batch_size=config.batch_size,
                description=description,
            )
        count = make_count(
            self.network, parameters, self.local_backbone_parameters, self.local_mesh
        )
        with self.evaluation_batches(shot, numbers) as batches:
            return count_episodes(count, batches, episodes=len(numbers), description=description)

    def embed_test_pictures(self, episodes: int, shots: Iterable[int] = ()) -> TestFeatures:
        """Embeds what the first `episodes` test episodes need and was not embedded before.

        All shots at once: a picture may be a query for one and a support for another.

        Args:
          episodes: how many.
          shots: numbers of supports; none given: those to test with.
        """
        return self._embed_test_pictures(range(episodes), shots)

    def _embed_test_pictures(self, numbers: Sequence[int], shots: Iterable[int]) -> TestFeatures:
        features = self._test_features()
        shots = sorted(shots) or self.test_shots
        features.embed(itertools.chain(*(self._test_episodes(k, numbers) for k in shots)))
        return features

    def _test_episodes(self, shot: int, numbers: Sequence[int]) -> list[Episode]:
        return list(map(self.draw_test(shot), numbers))

    def _test_features(self) -> TestFeatures:
        """Returns what is embedded of the test pictures: one for all runs of like features."""
        head = self.network.head
        identity = (
            f"{self._features_identity()} {self.network.masked_support} {head.priors} "
            f"{head.stretch_prior} {head.foreground_prototypes} {self.config.features.keep}"
        )
        if _EMBEDDED.get("identity") != identity:
            _EMBEDDED.clear()
            features = TestFeatures(
                self.network,
                self.local_backbone_parameters,
                self.local_mesh,
                self.records.split("val"),
                size=self.config.image_size,
                batch_size=self.config.evaluation.batch_size,
                workers=self.config.workers,
                store=self._feature_store(),
                kept=self.kept_test_features() if self.config.features.keep else None,
            )
            _EMBEDDED.update(identity=identity, features=features)
        return _EMBEDDED["features"]

    def _feature_store(self) -> FeatureStore:
        evaluation, directory = self.config.evaluation, self.config.features.directory
        # A CPU's own memory is the other budget.
        on_device = self.mesh.devices.flat[0].platform != "cpu"
        return FeatureStore(
            device_bytes=evaluation.device_gigabytes * 1e9 * on_device,
            memory_bytes=evaluation.memory_gigabytes * 1e9,
            directory=Path(directory) if directory else None,
            sharding=replicated(self.local_mesh),
        )

    def kept_training_features(self) -> KeptFeatures:
        """Returns the kept views of the training pictures, which are embedded first if need be."""
        return keep_training_features(
            self._embed(),
            self.records.split("train"),
            self._features_directory(),
            self._features_identity(),
            maps=self._kept_maps(),
            augmentation=augmentation(self.config),
            views=self.config.features.views,
            seed=self.config.seed,
            workers=self.config.workers,
        )

    def kept_test_features(self) -> KeptFeatures:
        """Returns the kept test pictures, which are embedded first if need be."""
        return keep_test_features(
            self._embed(),
            self.records.split("val"),
            self._features_directory(),
            self._features_identity(),
            maps=self._kept_maps(),
            size=self.config.image_size,
            workers=self.config.workers,
        )

    def _embed(self) -> Embed:
        embed, parameters = jax.jit(self.network.embed), self.local_backbone_parameters
        return lambda images: embed(parameters, images)

    def _kept_maps(self) -> tuple[str, ...]:
        return ("middle", "high", "label") if self.network.head.needs_high else ("middle", "label")

    def _features_directory(self) -> Path:
        config = self.config
        return Path(config.features.directory or Path(config.data.records) / "features")

    def _features_identity(self) -> str:
        backbone = self.config.backbone
        return (
            f"{self.records.fingerprint} {backbone.name} {backbone.stem} {backbone.dtype} "
            f"{self.weights_fingerprint} {self.config.image_size} "
            f"{'+'.join(self._kept_maps())}"
        )


def make_run(config: ConfigDict) -> Run:
    """Opens and checks everything that a run needs; nothing is compiled yet.

    Raises:
      UserError: what is missing or cannot work, and what to do.
    """
    settings.check(config)
    records = open_records(Path(config.data.records))
    mesh = data_mesh(config.devices or None)
    # A process scores episodes of its own on its own devices.
    for name, devices in (("training", mesh), ("evaluation", processes.local_mesh(mesh))):
        size = config[name].batch_size
        if size % devices.size:
            raise UserError(
                f"{name}.batch_size={size} cannot be spread over {devices.size} devices: take a "
                f"multiple of {devices.size}, or fewer devices with --config.devices"
            )
    base = training_lists(config, records)
    if not config.training.steps and len(base.queries) < config.training.batch_size:
        raise UserError(
            f"training.batch_size={config.training.batch_size} is more than the "
            f"{len(base.queries)} training pictures: take a smaller one, or set training.steps"
        )
    listed, novel_ids = (), novel_classes(records, config.fold)
    if config.evaluation.list:
        listed = read_episodes(Path(config.evaluation.list), records, novel_ids)
    novel = episode_lists(
        records.split("val"),
        novel_ids,
        shot=1 if listed else max(config.evaluation.shots),
        support_gap=config.data.support_gap,
        min_area=config.data.min_area,
    )
    for lists, purpose, shot in (
        (base, "training", config.shot),
        (novel, "evaluation", 1 if listed else max(config.evaluation.shots)),
    ):
        if line := left_out_line(
            lists, purpose, records.class_names, shot=shot, min_area=config.data.min_area
        ):
            print(line, flush=True)
    network = make_network(config)
    parameters, origin, weights_fingerprint, given_head = load_parameters(
        config, network.head, mesh
    )
    return Run(
        config=config,
        records=records,
        base=base,
        novel=novel,
        listed=listed,
        network=network,
        backbone_parameters=parameters,
        given_head=given_head,
        mesh=mesh,
        fingerprint=settings.fingerprint(config, records.fingerprint, weights_fingerprint),
        weights_fingerprint=weights_fingerprint,
        weights_origin=origin,
    )


def training_lists(config: ConfigDict, records: Records) -> EpisodeLists:
    """Returns the episodes that a run of `config` trains on.

    Raises:
      UserError: there is no such fold, or a base class has too few pictures.
    """
    split = records.split("train")
    base = episode_lists(
        split,
        base_classes(records, config.fold),
        shot=config.shot,
        support_gap=config.data.support_gap,
        min_area=config.data.min_area,
    )
    if config.data.hidden_share < 0:
        return base
    novel = novel_classes(records, config.fold)
    return with_hidden_share(base, split, novel, config.data.hidden_share, seed=config.seed)


def forget_test_features() -> None:
    """Frees what this process has embedded of test pictures."""
    _EMBEDDED.clear()


def augmentation(config: ConfigDict) -> Augmentation:
    """Returns the transforms of training pictures that the config describes."""
    given = config.augmentation.to_dict()
    return Augmentation(size=config.image_size, **given)


def _label_side(sizes: np.ndarray) -> int:
    """A static side that every original label fits into, the same for pictures of like sizes."""
    return -(-int(sizes.max()) // _LABEL_BUCKET) * _LABEL_BUCKET


def _load_numbered(load_episode, numbers: Sequence[int], position: int):
    return load_episode(numbers[position])
