"""Scores a head on the test episodes of a run, by the fast way or the straightforward one."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int

from apanet_jax.config.definitions import EvaluationSettings
from apanet_jax.data.episode_data import EpisodeData
from apanet_jax.evaluation.embed_once import EmbeddedImages, count_episodes_once
from apanet_jax.evaluation.feature_store import FeatureStore
from apanet_jax.evaluation.metrics import EpisodeCounts, Scores, SummedCounts
from apanet_jax.evaluation.protocol import Resizing, count_episodes, make_count
from apanet_jax.models.network import Parameters
from apanet_jax.runtime import processes
from apanet_jax.runtime.devices import replicated
from apanet_jax.runtime.programs import Programs
from apanet_jax.weights.network import LoadedNetwork


class EmbeddedSlot:
    """Holds the embedded test images of one kind: they are large, and runs alike share them."""

    def __init__(self):
        """Holds none."""
        self._held: tuple[str, EmbeddedImages] | None = None

    def of(self, identity: str, make: Callable[[], EmbeddedImages]) -> EmbeddedImages:
        """Returns those of `identity`, made where others are held, which are let go first."""
        if self._held is None or self._held[0] != identity:
            self._held = None
            self._held = identity, make()
        return self._held[1]

    def clear(self) -> None:
        """Lets go of what is held."""
        self._held = None


class Evaluator:
    """Counts the pixels of a head's test episodes, each process its share of them.

    Attributes:
      data: the episodes.
      settings: how they are scored.
      embedded: what runs of like features share.
    """

    def __init__(
        self,
        loaded: LoadedNetwork,
        data: EpisodeData,
        settings: EvaluationSettings,
        *,
        identity: str,
        directory: Path | None,
        programs: Programs,
        embedded: EmbeddedSlot,
    ):
        """Embeds and compiles nothing yet.

        Args:
          loaded: network and backbone's parameters.
          data: the episodes.
          settings: how they are scored.
          identity: everything that the features of an image depend on.
          directory: where features that no memory has room for are kept; None: the system's place
            for temporary files.
          programs: compiled functions.
          embedded: shared with the evaluators of other runs.
        """
        self.data, self.settings, self.embedded = data, settings, embedded
        self._loaded, self._programs, self._directory = loaded, programs, directory
        head = loaded.network.head
        self._identity = (
            f"{identity} {loaded.network.masked_support} {head.priors} {head.bandwidth} "
            f"{head.stretch_prior} {head.foreground_prototypes} {data.keeper is not None}"
        )

    @property
    def _resizing(self) -> Resizing:
        through = self.data.augmentation.size if self.settings.resize == "two_step" else None
        return Resizing(self._loaded.network.head.centred, through)

    def scores(self, parameters: Parameters, shot: int, episodes: int) -> Scores:
        """Returns the scores of a head's first `episodes` test episodes with `shot` supports."""
        sums = SummedCounts(len(self.data.records.class_names))
        sums.add(*self.count(parameters, shot, episodes))
        return sums.scores()

    def count(
        self, parameters: Parameters, shot: int, episodes: int
    ) -> tuple[EpisodeCounts, Int[np.ndarray, " episodes"]]:
        """Returns the counts and classes of a head's first `episodes` test episodes.

        Each process counts its share, and all of them get the counts of all.

        Args:
          parameters: of the head, on whatever devices.
          shot: supports.
          episodes: how many.
        """
        loaded = self._loaded
        own = processes.local(parameters, loaded.mesh)
        own = jax.device_put(own, replicated(loaded.local_mesh))
        counts, class_id = self._count(own, shot, processes.share(episodes))
        counts = EpisodeCounts(*(processes.gathered(x, count=episodes) for x in counts))
        return counts, processes.gathered(class_id, count=episodes)

    def embed(self, episodes: int, shots: Iterable[int] = ()) -> EmbeddedImages:
        """Embeds what this process's share of the first test episodes needs.

        All shots at once: an image may be a query for one and a support for another.

        Args:
          episodes: how many.
          shots: numbers of supports; none given: those to test with.
        """
        return self._embed(processes.share(episodes), shots or self.data.test_shots)

    def _count(
        self, parameters: Parameters, shot: int, numbers: Sequence[int]
    ) -> tuple[EpisodeCounts, Int[np.ndarray, " episodes"]]:
        if not numbers:
            # There are more processes than episodes.
            none = np.zeros((0, 2), np.int32)
            return EpisodeCounts(none, none), none[:, 0]
        loaded, data, description = self._loaded, self.data, f"evaluating {shot}-shot"
        if self.settings.embed_once:
            return count_episodes_once(
                self._embed(numbers, [shot]),
                loaded.network,
                parameters,
                loaded.local_mesh,
                data.test_split,
                data.test_episodes(shot, numbers),
                label_side=data.label_side,
                batch_size=self.settings.batch_size,
                programs=self._programs,
                resizing=self._resizing,
                description=description,
            )
        count = make_count(
            loaded.network,
            parameters,
            loaded.local_backbone_parameters,
            loaded.local_mesh,
            self._programs,
            self._resizing,
        )
        with data.test_batches(shot, numbers) as batches:
            return count_episodes(count, batches, episodes=len(numbers), description=description)

    def _embed(self, numbers: Sequence[int], shots: Iterable[int]) -> EmbeddedImages:
        images = self.embedded.of(self._identity, self._not_embedded)
        images.embed(
            episode for shot in sorted(shots) for episode in self.data.test_episodes(shot, numbers)
        )
        return images

    def _not_embedded(self) -> EmbeddedImages:
        loaded, data = self._loaded, self.data
        return EmbeddedImages(
            loaded.network,
            loaded.local_backbone_parameters,
            loaded.local_mesh,
            data.test_split,
            size=data.augmentation.size,
            multiple=data.multiple,
            batch_size=self.settings.batch_size,
            workers=data.workers,
            store=self._store(),
            kept=data.kept_test_features(),
            programs=self._programs,
        )

    def _store(self) -> FeatureStore:
        # A CPU's own memory is the other budget.
        on_device = self._loaded.mesh.devices.flat[0].platform != "cpu"
        return FeatureStore(
            device_bytes=self.settings.device_gigabytes * 1e9 if on_device else 0.0,
            memory_bytes=self.settings.memory_gigabytes * 1e9,
            directory=self._directory,
            sharding=replicated(self._loaded.local_mesh),
        )
