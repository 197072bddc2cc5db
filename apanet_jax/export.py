"""Saves a trained head for others: `python -m apanet_jax.export --workdir=DIR --output=DIR`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict
from safetensors.numpy import save

from apanet_jax import settings
from apanet_jax.checkpoint import Checkpoints, abstract_state
from apanet_jax.errors import Parser, UserError, called, main_guard
from apanet_jax.model_card import model_card
from apanet_jax.models.apanet import APANet
from apanet_jax.models.network import Parameters
from apanet_jax.networks import make_network
from apanet_jax.reporting import RESULTS, read_results
from apanet_jax.weights.head import head_tensors
from apanet_jax.whole_files import cannot_write, write_bytes, write_json

_DESCRIPTION = (
    "Saves a trained head for others: model.safetensors with PyTorch's names and layouts, the "
    "settings, and a model card."
)
WEIGHTS, CARD, SETTINGS = "model.safetensors", "README.md", settings.FILE


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Exports the run that the arguments name."""
    arguments = _parser().parse_args(argv)
    output = export(Path(arguments.workdir), Path(arguments.output), arguments.checkpoint)
    print(f"{output / WEIGHTS} holds the head, {output / CARD} says what it is")


def export(workdir: Path, output: Path, checkpoint: str | None = None) -> Path:
    """Writes a run's head as safetensors, its settings (without paths), and a model card.

    Tensors have PyTorch's names and layouts, see `weights.head`. The backbone is not in there: it
    is frozen, and the card says which it is.

    Args:
      workdir: of a single run.
      output: folder of the three files; it is made where it is missing.
      checkpoint: "best" on validation, or "last"; None: the best where there is one.

    Returns:
      `output`.

    Raises:
      UserError: there is no such run or checkpoint, or it cannot be written.
    """
    config = settings.of_run(workdir)
    settings.check(config)
    head = make_network(config).head
    name, step, parameters = restore_head(workdir, head, config, checkpoint)
    tensors = head_tensors(parameters, head)
    scored = read_results(workdir) if (workdir / RESULTS).exists() else []
    results = [row for row in scored if row["checkpoint"] == name]
    card = model_card(config, tensors, results, name, step)
    metadata = {"format": "pt", "checkpoint": name, "step": str(step)}
    with cannot_write(output):
        output.mkdir(parents=True, exist_ok=True)
    write_bytes(output / WEIGHTS, save(tensors, metadata))
    write_json(output / SETTINGS, settings.without_paths(config).to_dict())
    write_bytes(output / CARD, card.encode())
    return output


def restore_head(
    workdir: Path, head: APANet, config: ConfigDict, checkpoint: str | None
) -> tuple[str, int, Parameters]:
    """Returns a checkpoint's name, its step and the head's parameters.

    Args:
      workdir: of the run.
      head: the module.
      config: the run's settings.
      checkpoint: "best" on validation, or "last"; None: the best where there is one.

    Raises:
      UserError: there is no such checkpoint.
    """
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        steps = {"best": checkpoints.best_step(), "last": checkpoints.latest_step()}
        name = checkpoint or ("best" if steps["best"] is not None else "last")
        if steps[name] is None:
            raise UserError(f"{workdir} holds no {name} checkpoint: train first")
        state, _ = checkpoints.restore(
            steps[name],
            abstract_state(head, config.backbone.name),
            jax.sharding.SingleDeviceSharding(jax.devices()[0]),
        )
    return name, steps[name], jax.device_get(state.parameters)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=called("export"), description=_DESCRIPTION)
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="of a trained run, with its config.json"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the files")
    parser.add_argument(
        "--checkpoint",
        choices=["best", "last"],
        help="which; default: the best on validation where there is one, else the last",
    )
    return parser


if __name__ == "__main__":
    main()
