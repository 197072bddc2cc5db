"""What the class-agnostic branch costs: none of it at inference."""

import json

import pytest

from experiments.paper.branch_cost import markdown
from tests.scripts import assert_refused, run_script

SMALL = "image_size=33,channels=8,training.batch_size=2,evaluation.batch_size=2"


@pytest.mark.slow
@pytest.mark.parametrize("config", ["folder:keep=True", "folder:keep=False"])
def test_inference_is_one_program_whatever_the_clusters(tmp_path, config):
    file = tmp_path / "cost.json"
    arguments = (f"--config={config},{SMALL}", "--clusters=0,3", "--repetitions=2")
    done = run_script("branch_cost", *arguments, f"--json={file}")
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    plain, branch = result["rows"]
    assert (plain["clusters"], branch["clusters"]) == (0, 3)
    # Two reductions of 40 + 112 channels to 8, a 3x3 of 2 x 8 + 1 channels, a 1x1; with biases.
    count = 2 * (152 * 8 + 8) + (9 * 17 * 8 + 8) + (8 * 2 + 2)
    assert plain["head_parameters"] == branch["head_parameters"] == count
    assert branch["inference_program_is_the_same"]
    assert branch["inference"]["temporary_bytes"] == plain["inference"]["temporary_bytes"]
    assert branch["training"]["temporary_bytes"] > plain["training"]["temporary_bytes"] > 0
    assert len(branch["training"]["seconds"]) == 2 and plain["training"]["ratio"] == 1
    assert result["kept_features"] == ("keep=False" not in config)
    assert done.stdout.strip() == markdown(result["rows"]).strip()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--clusters=0,some", "--config=folder"], "argument --clusters: expected whole numbers"),
        ([], "--config"),
        (["--config=folder:channels=0"], "'model.channels' is 0"),
    ],
)
def test_bad_input_gets_one_line(arguments, said):
    assert_refused(run_script("branch_cost", *arguments), said)
