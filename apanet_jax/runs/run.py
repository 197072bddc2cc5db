"""From a config to a run: settings, episodes, network, evaluator, devices, made once."""

import dataclasses
import functools
import itertools
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from apanet_jax.config.definitions import Settings
from apanet_jax.config.saved import json_settings
from apanet_jax.config.settings import fingerprint, typed
from apanet_jax.data.episode_data import (
    EpisodeData,
    FeatureKeeper,
    augmentation_of,
    episode_data,
    fitting_multiple,
)
from apanet_jax.data.folds import novel_classes
from apanet_jax.data.records.reading import Records, open_records
from apanet_jax.evaluation.evaluator import EmbeddedSlot, Evaluator
from apanet_jax.models.network import Network, Parameters
from apanet_jax.runtime import processes
from apanet_jax.runtime.devices import batch_sharding, data_mesh, replicated
from apanet_jax.runtime.errors import UserError
from apanet_jax.runtime.programs import Programs
from apanet_jax.training.task import TrainingTask
from apanet_jax.weights.network import LoadedNetwork, NetworkLoader

_NUMBERS = itertools.count()
"""Of parameters that came from no file."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
      settings: checked.
      data: its episodes.
      loaded: its network, with the backbone's parameters on every device.
      evaluator: scores heads on the test episodes.
      fingerprint: of everything that the trained parameters depend on.
      programs: compiled functions, shared with runs made together with it.
    """

    settings: Settings
    data: EpisodeData
    loaded: LoadedNetwork
    evaluator: Evaluator
    fingerprint: str
    programs: Programs

    @property
    def network(self) -> Network:
        """Backbone and head."""
        return self.loaded.network

    @property
    def mesh(self) -> Mesh:
        """The devices, of all processes."""
        return self.loaded.mesh

    @property
    def records(self) -> Records:
        """The data set."""
        return self.data.records

    @property
    def novel(self) -> tuple[str, ...]:
        """The names of the classes that its fold tests."""
        records = self.records
        return tuple(records.class_names[i - 1] for i in novel_classes(records, self.settings.fold))

    @property
    def steps(self) -> int:
        """Training steps: as set, or epochs times the whole batches of the training list."""
        training = self.settings.training
        per_epoch = len(self.data.base.queries) // training.batch_size
        return training.steps or training.epochs * per_epoch

    def task(self) -> TrainingTask:
        """Returns the run's training."""
        settings, evaluation = self.settings, self.settings.evaluation
        validate = functools.partial(
            self.evaluator.scores,
            shot=self.data.test_shots[0],
            episodes=min(evaluation.validation_episodes, self.data.test_count),
        )
        return TrainingTask(
            settings=settings.training,
            model=settings.model,
            seed=settings.seed,
            fold=settings.fold,
            novel=self.novel,
            image_size=settings.image_size,
            steps=self.steps,
            loaded=self.loaded,
            batches=self.data.training_batches,
            validate=validate if evaluation.every else None,
            validate_every=evaluation.every,
            config=json_settings(settings),
            fingerprint=self.fingerprint,
            backbone=settings.backbone.name,
            programs=self.programs,
        )


class RunMaker:
    """Makes the runs of one command, which share what is alike.

    The backbone's parameters are loaded once, the test images embedded once, and a program compiled
    once for all runs with the same network.

    Attributes:
      embedded: the embedded test images.
      programs: compiled functions.
    """

    def __init__(self):
        """Has made nothing."""
        self.embedded, self.programs = EmbeddedSlot(), Programs()
        self._loader = NetworkLoader()
        self._said: set[str] = set()

    def make(self, config: ConfigDict | Settings) -> Run:
        """Opens and checks everything that a run needs; nothing is compiled yet.

        Raises:
          UserError: what is missing or cannot work, and what to do.
        """
        settings = config if isinstance(config, Settings) else typed(config)
        records = open_records(Path(settings.data.records))
        _check_benchmark(settings, records)
        mesh = data_mesh(settings.devices or None)
        _check_batches(settings, mesh)
        data = episode_data(settings, records)
        for line in data.left_out():
            if line not in self._said:
                print(line, flush=True)
                self._said.add(line)
        training = settings.training
        if not training.steps and len(data.base.queries) < training.batch_size:
            raise UserError(
                f"training.batch_size={training.batch_size} is more than the "
                f"{len(data.base.queries)} training images: take a smaller one, or set "
                "training.steps"
            )
        loaded = self._loader.load(
            settings.backbone,
            settings.model,
            mesh,
            image_size=settings.image_size,
            checkpoint=settings.evaluation.checkpoint,
        )
        maps = (
            ("middle", "high", "label")
            if loaded.network.head.needs_high
            else (
                "middle",
                "label",
            )
        )
        identity = _features_identity(settings, records, loaded, maps)
        if settings.features.keep:
            keeper = _keeper(settings, loaded, identity, maps)
            data = dataclasses.replace(data, keeper=keeper)
        return Run(
            settings=settings,
            data=data,
            loaded=loaded,
            evaluator=self._evaluator(settings, data, loaded, identity),
            fingerprint=fingerprint(settings, records.fingerprint, loaded.fingerprint),
            programs=self.programs,
        )

    def with_backbone(self, run: Run, parameters: Parameters) -> Run:
        """Returns a run with other parameters of its backbone, on its devices; for comparisons."""
        loaded = dataclasses.replace(run.loaded, backbone_parameters=parameters)
        # Not their place in memory, which others may take once they are gone.
        identity = f"{next(_NUMBERS)} {run.settings.image_size}"
        evaluator = self._evaluator(run.settings, run.data, loaded, identity)
        return dataclasses.replace(run, loaded=loaded, evaluator=evaluator)

    def _evaluator(
        self, settings: Settings, data: EpisodeData, loaded: LoadedNetwork, identity: str
    ) -> Evaluator:
        directory = settings.features.directory
        return Evaluator(
            loaded,
            data,
            settings.evaluation,
            identity=identity,
            directory=Path(directory) if directory else None,
            programs=self.programs,
            embedded=self.embedded,
        )


def make_run(config: ConfigDict | Settings) -> Run:
    """Returns a run that shares nothing with others: see `RunMaker.make`."""
    return RunMaker().make(config)


def _check_benchmark(settings: Settings, records: Records) -> None:
    """Refuses one benchmark's records with the other's config, whose scores would bear its name."""
    named = {settings.dataset, records.name}
    if named == {"pascal", "coco"}:
        raise UserError(
            f"data.records={settings.data.records!r} are of {records.name}, and the config is for "
            f"{settings.dataset}: take --config={records.name}, or records of {settings.dataset}"
        )


def _check_batches(settings: Settings, mesh: Mesh) -> None:
    # A process scores episodes of its own on its own devices.
    for name, batch_size, devices in (
        ("training", settings.training.batch_size, mesh),
        ("evaluation", settings.evaluation.batch_size, processes.local_mesh(mesh)),
    ):
        if batch_size % devices.size:
            raise UserError(
                f"{name}.batch_size={batch_size} cannot be spread over {devices.size} devices: "
                f"take a multiple of {devices.size}, or fewer devices with --config.devices"
            )


def _features_identity(
    settings: Settings, records: Records, loaded: LoadedNetwork, maps: tuple[str, ...]
) -> str:
    backbone = settings.backbone
    return (
        f"{records.fingerprint} {backbone.name} {backbone.stem} {backbone.dtype} "
        f"{loaded.fingerprint} {settings.image_size} {'+'.join(maps)}"
    )


def _keeper(
    settings: Settings, loaded: LoadedNetwork, identity: str, maps: tuple[str, ...]
) -> FeatureKeeper:
    spread, whole = batch_sharding(loaded.local_mesh), replicated(loaded.local_mesh)
    embed = jax.jit(loaded.network.embed, in_shardings=(whole, spread), out_shardings=spread)
    devices, batch_size = loaded.local_mesh.size, settings.features.batch_size
    directory = settings.features.directory or Path(settings.data.records) / "features"
    return FeatureKeeper(
        embed=lambda images: embed(
            loaded.local_backbone_parameters, jax.device_put(images, spread)
        ),
        directory=Path(directory),
        identity=identity,
        maps=maps,
        augmentation=augmentation_of(settings.augmentation, settings.image_size),
        multiple=fitting_multiple(settings.backbone.name),
        views=settings.features.views,
        seed=settings.seed if settings.features.seed < 0 else settings.features.seed,
        workers=settings.workers,
        # As many as set, and a few more where they could not be spread over the devices.
        batch_size=-(-batch_size // devices) * devices,
    )
