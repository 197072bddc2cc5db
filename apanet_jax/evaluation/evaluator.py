"""Scores a head on the test episodes of a run, by the fast way or the straightforward one."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int

from apanet_jax.config.definitions import EvaluationSettings
from apanet_jax.data.episode_data import EpisodeData
from apanet_jax.evaluation.comparing import Head
from apanet_jax.evaluation.embed_once import EmbeddedImages, count_episodes_once
from apanet_jax.evaluation.embedding import Embedder, Images, query_bytes
from apanet_jax.evaluation.feature_store import FeatureStore
from apanet_jax.evaluation.metrics import EpisodeCounts, Scores, SummedCounts
from apanet_jax.evaluation.plan import Job, Needs, Plan
from apanet_jax.evaluation.protocol import Resizing, count_episodes, make_count
from apanet_jax.models.network import Parameters
from apanet_jax.runtime import processes
from apanet_jax.runtime.devices import replicated
from apanet_jax.runtime.programs import Programs
from apanet_jax.weights.network import LoadedNetwork

_BATCHES_AT_WORK = 4
"""Embedded, waiting as supports, compared, and on their way into the store."""


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
            f"{head.stretch_prior} {head.foreground_prototypes} {data.keeper is not None} "
            f"{settings.stored} {settings.batch_size} {settings.device_gigabytes} "
            f"{settings.memory_gigabytes} {settings.disk_gigabytes}"
        )
        self._said = ""

    @property
    def resizing(self) -> Resizing:
        """In which steps logits come to a label's size."""
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
        return self.count_all([parameters], [shot], episodes)[shot][0]

    def count_all(
        self, heads: Sequence[Parameters], shots: Iterable[int], episodes: int
    ) -> dict[int, list[tuple[EpisodeCounts, Int[np.ndarray, " episodes"]]]]:
        """Returns the same of several heads and numbers of supports, which share the embedding.

        Args:
          heads: parameters of each, on whatever devices.
          shots: numbers of supports.
          episodes: how many at each of them.
        """
        loaded, shots = self._loaded, sorted(set(shots))
        own = [
            jax.device_put(processes.local(head, loaded.mesh), replicated(loaded.local_mesh))
            for head in heads
        ]
        counted = self._counted(own, shots, processes.share(episodes))

        def whole(counts: EpisodeCounts, class_id: np.ndarray):
            counts = EpisodeCounts(*(processes.gathered(x, count=episodes) for x in counts))
            return counts, processes.gathered(class_id, count=episodes)

        return {shot: [whole(*of_head) for of_head in counted[shot]] for shot in shots}

    def embed(self, episodes: int, shots: Iterable[int] = ()) -> EmbeddedImages:
        """Embeds what this process's share of the first test episodes needs, as far as it is kept.

        Args:
          episodes: how many.
          shots: numbers of supports; none given: those to test with.
        """
        features, plan, _ = self._planned(shots or self.data.test_shots, processes.share(episodes))
        plan.carry_out(features.store, features)
        return features

    def needs(self, shots: Iterable[int], episodes: int) -> Needs:
        """Returns what scoring this process's share of test episodes takes; embeds nothing."""
        return self._planned(shots, processes.share(episodes), say=False)[2]

    @property
    def embeds_once(self) -> bool:
        """Whether features are kept: as the settings have it for the kind of the devices."""
        on_cpu = self._loaded.mesh.devices.flat[0].platform == "cpu"
        return self.settings.embed_once and (on_cpu or self.settings.once_on_accelerators)

    def _counted(
        self, heads: Sequence[Parameters], shots: Sequence[int], numbers: Sequence[int]
    ) -> dict[int, list[tuple[EpisodeCounts, Int[np.ndarray, " episodes"]]]]:
        if not numbers:
            # There are more processes than episodes.
            none = np.zeros((0, 2), np.int32)
            nothing = EpisodeCounts(none, none), none[:, 0]
            return {shot: [nothing] * len(heads) for shot in shots}
        if self.embeds_once:
            return self._counted_once(heads, shots, numbers)
        return {
            shot: [self._counted_each(parameters, shot, numbers) for parameters in heads]
            for shot in shots
        }

    def _counted_once(self, heads, shots, numbers):
        features, plan, _ = self._planned(shots, numbers)
        data = self.data
        found = count_episodes_once(
            features,
            plan,
            [Head(self._loaded.network.head, parameters) for parameters in heads],
            data.test_split,
            episodes=len(shots) * len(numbers),
            label_side=data.label_side,
            programs=self._programs,
            resizing=self.resizing,
            description=f"evaluating {'+'.join(map(str, shots))}-shot",
        )
        counted = {}
        for place, shot in enumerate(shots):
            own = slice(place * len(numbers), (place + 1) * len(numbers))
            class_id = [episode.class_id for episode in data.test_episodes(shot, numbers)]
            counted[shot] = [
                (EpisodeCounts(*(x[own] for x in counts)), np.array(class_id, np.int32))
                for counts in found
            ]
        return counted

    def _counted_each(self, parameters, shot, numbers):
        loaded = self._loaded
        count = make_count(
            loaded.network,
            parameters,
            loaded.local_backbone_parameters,
            loaded.local_mesh,
            self._programs,
            self.resizing,
            self.settings.stored,
        )
        with self.data.test_batches(shot, numbers) as batches:
            return count_episodes(
                count, batches, episodes=len(numbers), description=f"evaluating {shot}-shot"
            )

    def _planned(
        self, shots: Iterable[int], numbers: Sequence[int], *, say: bool = True
    ) -> tuple[EmbeddedImages, Plan, Needs]:
        """Returns the features of images, the order of the episodes, and what it takes."""
        features = self.embedded.of(self._identity, self._not_embedded)
        episodes = [e for shot in sorted(shots) for e in self.data.test_episodes(shot, numbers)]
        plan, needs = features.plan([Job(number, e) for number, e in enumerate(episodes)])
        if say and needs.passes and processes.is_leader():
            each = sum(1 + len(episode.supports) for episode in episodes)
            text = needs.lines(features.store.budgets, each)
            # A run that validates plans the same again and again.
            if text != self._said:
                print(text, flush=True)
                self._said = text
        return features, plan, needs

    def _not_embedded(self) -> EmbeddedImages:
        loaded, data, settings = self._loaded, self.data, self.settings
        images = Images(
            data.test_split,
            data.augmentation.size,
            data.multiple,
            data.workers,
            data.kept_test_features(),
        )
        embedder = Embedder(
            loaded.network,
            loaded.local_backbone_parameters,
            loaded.local_mesh,
            images,
            batch_size=settings.batch_size,
            stored=settings.stored,
            programs=self._programs,
        )
        device, memory = settings.device_gigabytes * 1e9, settings.memory_gigabytes * 1e9
        if loaded.mesh.devices.flat[0].platform == "cpu":
            # Its own memory is the other budget, and what is worked on lies there too.
            query, _, _ = embedder.shapes()
            working = _BATCHES_AT_WORK * settings.batch_size * query_bytes(query)
            device, memory = 0.0, max(memory - working, 0.0)
        store = FeatureStore(
            device_bytes=device * loaded.local_mesh.size,
            memory_bytes=memory,
            disk_bytes=settings.disk_gigabytes * 1e9,
            directory=self._directory,
        )
        return EmbeddedImages(embedder, store, loaded.local_mesh, self._programs)
