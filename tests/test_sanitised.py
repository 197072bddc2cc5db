"""Training and evaluation under JAX's own checks: NaN, leaked tracers, transfers, compilations."""

import contextlib
import logging
import re
from collections import Counter

import jax
import pytest

from apanet_jax.evaluation import embed_once, embedding, protocol
from apanet_jax.runs import sweep
from apanet_jax.runs.run import make_run
from apanet_jax.runtime.devices import batch_sharding
from apanet_jax.training import loop
from apanet_jax.training.loop import train
from configs import folder
from tests.small_backbone import OPTIONS as SMALL

pytestmark = pytest.mark.usefixtures("small_backbone")

OPTIONS = f"{SMALL},checkpoint_every=2,log_every=1,episodes=4,shots=1+2,devices=2"
# As the paper has it, with all that a head can do: the backbone runs in every step.
WHOLE = (
    "keep=False,masked_support=True,priors=high+middle+contrast+density_ratio,reduction_dropout=0.5"
)
MAKERS = (
    (loop, "make_step"),
    (protocol, "_compiled_count"),
    (embedding, "_compiled_embedding"),
    (embedding, "_compiled_supports"),
    (embed_once, "compiled_pairs"),
    (embed_once, "compiled_head"),
)


@pytest.fixture(autouse=True)
def nothing_compiled():
    """What other tests compiled is not what a run compiles."""
    jax.clear_caches()


def run_once(prepared, workdir, options, shots=(1, 2)):
    config = folder.get_config(f"{OPTIONS},records={prepared},{options}")
    (rows,) = sweep.run_all(config, workdir, "train_and_evaluate").values()
    assert [row["shot"] for row in rows] == list(shots)
    return rows


@pytest.mark.parametrize(
    "options",
    [
        pytest.param("", id="kept"),
        pytest.param(WHOLE, id="whole", marks=pytest.mark.slow),
        pytest.param("embed_once=False", id="plain", marks=pytest.mark.slow),
    ],
)
def test_no_value_becomes_nan(prepared, tmp_path, options):
    with jax.debug_nans(True):
        run_once(prepared, tmp_path / "run", options)


# JAX keeps nothing that it traced while it looks for leaks: each step and batch takes seconds, so
# each program is called once, to train with one support and to score with two.
@pytest.mark.slow
@pytest.mark.parametrize("options", ["", WHOLE, "embed_once=False"], ids=["kept", "whole", "plain"])
def test_no_tracer_leaks(prepared, tmp_path, options):
    with jax.checking_leaks():
        run_once(prepared, tmp_path / "run", f"steps=1,episodes=2,shots=2,{options}", shots=[2])


def guarded(function, calls, name):
    def call(*arguments):
        calls[name] += 1
        with jax.transfer_guard("disallow"):
            return function(*arguments)

    return call


def guarding(maker, calls, name):
    def make(*arguments):
        made = maker(*arguments)
        if isinstance(made, tuple):
            return tuple(guarded(function, calls, name) for function in made)
        return guarded(made, calls, name)

    return make


@pytest.fixture
def calls(monkeypatch):
    """Has every compiled step be called as in a run, with no transfer that nobody asked for."""
    counted = Counter()
    for module, name in MAKERS:
        monkeypatch.setattr(module, name, guarding(getattr(module, name), counted, name))
    return counted


def test_the_guard_sees_what_is_moved_by_itself(prepared):
    run = make_run(folder.get_config(f"{OPTIONS},records={prepared}"))
    spread = batch_sharding(run.mesh)
    double = jax.jit(lambda x: 2 * x, in_shardings=spread)
    with run.data.training_batches(0) as batches:
        labels = next(batches)["query_label"]
    with pytest.raises(Exception, match="[Dd]isallowed host-to-device"):
        guarded(double, Counter(), "double")(labels)


EMBEDS_ONCE = {
    "make_step",
    "_compiled_embedding",
    "_compiled_supports",
    "compiled_pairs",
    "compiled_head",
}


@contextlib.contextmanager
def compilations():
    """Counts what is compiled, by the name of the function."""
    counted = Counter()

    class Counting(logging.Handler):
        def emit(self, record):
            found = re.match(r"Compiling (?:jit\()?(\w+)", record.getMessage())
            if found:
                counted[found[1]] += 1

    logger, handler = logging.getLogger("jax"), Counting()
    logger.addHandler(handler)
    try:
        with jax.log_compiles(True):
            yield counted
    finally:
        logger.removeHandler(handler)


# A batch with two supports is another program than one with one; images that are seen as queries
# have features that supports have not.
@pytest.mark.parametrize(
    ("options", "called", "programs"),
    [
        pytest.param(
            "",
            EMBEDS_ONCE,
            {"_step": 1, "embed": 1, "supports": 1, "encode": 1, "compare": 2},
            id="kept",
        ),
        pytest.param(
            WHOLE,
            EMBEDS_ONCE,
            {"_step": 1, "embed": 2, "supports": 1, "encode": 1, "compare": 2},
            id="whole",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "embed_once=False",
            {"make_step", "_compiled_count"},
            {"_step": 1, "count": 2},
            id="plain",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_step_moves_nothing_by_itself_and_each_program_is_compiled_once(
    prepared, tmp_path, calls, options, called, programs
):
    with compilations() as compiled:
        run_once(prepared, tmp_path / "run", options)
    assert set(calls) == called
    assert calls["make_step"] == 4
    assert {name: compiled[name] for name in programs} == programs


@pytest.mark.slow
def test_a_run_that_goes_on_compiles_no_more_than_one_that_does_not(prepared, tmp_path):
    run = make_run(folder.get_config(f"{OPTIONS},records={prepared}"))
    with compilations() as compiled:
        train(run.task(), tmp_path / "run")
        (tmp_path / "run" / "checkpoints" / "4").rename(tmp_path / "aside")
        train(run.task(), tmp_path / "run")
    assert compiled["_step"] == 1
