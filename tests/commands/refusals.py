"""Commands that have to refuse what they are given, in one line."""

import pytest

from apanet_jax.runs import sweep
from apanet_jax.runtime.errors import main_guard
from configs import folder

TINY = (
    "min_area=50,image_size=65,longer_side=65,channels=8,steps=2,training.batch_size=2,"
    "episodes=2,evaluation.batch_size=2,shots=1,devices=1,pictures=0,bundled=0"
)


def refused(capsys, command, *says):
    """Runs a command that must end with status 2 and one line that says all of this."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        command()
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if not line.startswith("bad  ")]
    assert ended.value.code == 2, printed
    assert len(errors) == 1 and errors[0].startswith("error: "), printed.err
    assert "Traceback" not in printed.err + printed.out
    for text in says:
        assert text in printed.err, printed.err


def start(prepared, options, workdir, mode="train", module=folder):
    def command():
        config = module.get_config(f"{TINY},records={prepared},{options}")
        sweep.run_all(config, workdir, mode)

    return main_guard(command)
