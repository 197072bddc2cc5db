"""The paper's ablations, Tables IV to VII, and what lies beyond them, on any data.

    python experiments/paper/ablations.py --table=4,5,6,7 \
        --config=configs/folder.py:records=RECORDS --workdir=WORKDIR

Every row is the one model with other settings (`RUNS`), on all folds with three seeds unless
`--folds` and `--seeds` say otherwise. What tables share is run once: WORKDIR/seed*/fold*/<run>
holds a run as `apanet_jax.main` leaves it. A run that is finished is not made again, one that was
interrupted goes on; several processes may share a WORKDIR when they take different folds or seeds.
`--report` writes the tables of what is there and runs nothing. On accelerators
`--config.sweep.side_by_side` trains the seeds, folds and lambdas of a row in one program.

WORKDIR/table_<n>.md, .csv and .json: mIoU by fold, the mean and its standard deviation over seeds,
the paired difference to the baseline with its 95 % interval over test pictures (`paired.py`;
`--block` frames of a video count as one), in how many pairs of fold and seed it is above zero, and
the paper's row. Rows of `training_free.py` with the same WORKDIR stand below.

Beyond the paper: `--table=hidden` trains baseline and APANet on as many pictures with more or fewer
novel objects hidden in them: by the paper's explanation the gain must grow with their share.
`--table=beyond` tries changes of APANet, by themselves and together with the prior with contrast;
`--table=why` asks what its gain depends on: rows that train a baseline too hold APANet against that
one, the others against APANet as it is. `--table=rate` is what the learning rate was chosen by, for
the baseline.
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.config.flags import config_flag, config_of, run_command
from apanet_jax.runs.run import make_run
from apanet_jax.runs.scoring import evaluate_checkpoints
from apanet_jax.runs.sweep import ALL, is_finished, parts
from apanet_jax.runtime.compilation import keep_compiled
from apanet_jax.runtime.errors import UserError
from apanet_jax.training.loop import train
from apanet_jax.training.side_by_side import train_side_by_side
from experiments.paper.ablation_report import NO_LEARNING, Row, Table, write_table

BASELINE = "baseline"
SHARES = (0.0, 0.5, 1.0)
TRAININGS = {
    "200 steps": ("steps200", "steps=200"),
    "800 steps": ("steps800", "steps=800"),
    "half of the reduced channels dropped": ("dropout", "reduction_dropout=0.5"),
    "prior mask not scaled": ("prior_scale1", "prior_scale=1.0"),
    "no prior mask": ("no_prior", "priors="),
}
"""What baseline and APANet are trained with, to see what is left of the gain: names, options."""
RUNS = (
    {BASELINE: "num_clusters=0"}
    | {f"clusters{n}": f"num_clusters={n}" for n in range(1, 6)}
    | {"support": "regions=support,num_clusters=1"}
    | {f"lambda{100 * x:.0f}": f"agnostic_weight={x}" for x in (0.1, 0.3, 0.7, 0.9, 1.0)}
    | {f"grid{a}": f"regions=grid,num_clusters={a * a}" for a in range(2, 6)}
    | {
        f"share{100 * share:.0f}_{name}": f"hidden_share={share},num_clusters={n}"
        for share in SHARES
        for name, n in ((BASELINE, 0), ("apanet", 3))
    }
    | {f"rate{factor}": f"num_clusters=0,rate_factor={factor}" for factor in (1, 3, 10, 30, 100)}
    | dict(TRAININGS.values())
    | {f"{name}_{BASELINE}": f"{options},num_clusters=0" for name, options in TRAININGS.values()}
    | {
        "start_plusplus": "kmeans_init=k-means++",
        "start_random": "kmeans_init=random",
        "clusters_high": "cluster_features=high",
        "opposite_same": "agnostic_prior=same",
        "opposite_zeros": "agnostic_prior=zeros",
    }
    | {
        "negatives3": "negatives=3",
        "resembling": "resemblance_limit=0.5",
        "prototypes2": "foreground_prototypes=2",
        "prototypes3": "foreground_prototypes=3",
        "depths2": "priors=block3+block4",
        "depths3": "priors=middle+block3+block4",
        "contrast": "priors=middle+contrast",
        "contrast_baseline": "priors=middle+contrast,num_clusters=0",
        "contrast_shot5": "priors=middle+contrast,shot=5",
        "contrast_prototypes2": "priors=middle+contrast,foreground_prototypes=2",
        "contrast_negatives3": "priors=middle+contrast,negatives=3",
        "contrast_resembling": "priors=middle+contrast,resemblance_limit=0.5",
    }
)
"""What is run, by name: options that are added to the config, whose n is 3 and lambda 0.5."""

_FREE = tuple(
    Row(f"no learning: {x}", f"{NO_LEARNING}{x}") for x in ("cosine", "stretched", "prototype")
)
TABLES = {
    "4": Table(
        "IV",
        "Number of clusters n",
        (
            Row("n = 0 (baseline)", BASELINE, "0"),
            *(Row(f"n = {n}", f"clusters{n}", str(n)) for n in range(1, 6)),
            *_FREE,
        ),
    ),
    "5": Table(
        "V",
        "Where the class-agnostic prototypes come from",
        (
            Row("(a) none (baseline)", BASELINE, "a"),
            Row("(b) the support's background", "support", "b"),
            Row("(c) the query, one cluster", "clusters1", "c"),
            Row("(d) the query, three clusters", "clusters3", "d"),
            *_FREE,
        ),
    ),
    "6": Table(
        "VI",
        "Weight lambda of the class-agnostic branch",
        (
            Row("0 (baseline)", BASELINE, "0"),
            *(Row(str(x), f"lambda{100 * x:.0f}", str(x)) for x in (0.1, 0.3)),
            Row("0.5", "clusters3", "0.5"),
            *(Row(str(x), f"lambda{100 * x:.0f}", str(x)) for x in (0.7, 0.9, 1.0)),
            *_FREE,
        ),
    ),
    "7": Table(
        "VII",
        "Cells of spatial pyramid pooling in place of clusters",
        (
            Row("none (baseline)", BASELINE),
            *(Row(f"{a}x{a}", f"grid{a}", f"{a}x{a}") for a in range(2, 6)),
            Row("three clusters", "clusters3"),
            Row("three clusters: above 5x5", "clusters3", against="grid5"),
            *_FREE,
        ),
    ),
    "main": Table(
        "",
        "With and without the class-agnostic branch",
        (
            *_FREE,
            Row("baseline", BASELINE),
            Row("APANet", "clusters3"),
            Row("APANet, prior with contrast", "contrast"),
            Row("the same, resembling clusters left out", "contrast_resembling"),
            Row("prior with contrast, trained with 5 supports", "contrast_shot5"),
            Row("APANet, contrast: above no learning", "contrast", against="free_prototype"),
            Row(
                "resembling left out: above no learning",
                "contrast_resembling",
                against="free_prototype",
            ),
            Row("trained with 5: above no learning", "contrast_shot5", against="free_prototype"),
        ),
    ),
    "rate": Table(
        "",
        "Learning rate of the baseline, times 0.0025",
        tuple(Row(str(factor), f"rate{factor}") for factor in (1, 3, 10, 30, 100)),
    ),
    "hidden": Table(
        "",
        "Training pictures with a hidden novel object",
        tuple(
            Row(
                f"{share:.0%}: {name}",
                f"share{100 * share:.0f}_{name}",
                against="" if name == BASELINE else f"share{100 * share:.0f}_{BASELINE}",
            )
            for share in SHARES
            for name in (BASELINE, "apanet")
        ),
        baseline=f"share0_{BASELINE}",
    ),
    "beyond": Table(
        "",
        "Beyond the paper",
        (
            Row("baseline", BASELINE),
            Row("APANet", "clusters3"),
            Row("half of the reduced channels dropped", "dropout"),
            Row("three negatives", "negatives3"),
            Row("resembling clusters left out", "resembling"),
            Row("two foreground prototypes", "prototypes2"),
            Row("three foreground prototypes", "prototypes3"),
            Row("priors of two depths", "depths2"),
            Row("priors of three", "depths3"),
            Row("prior with contrast", "contrast"),
            Row("prior with contrast, no branch", "contrast_baseline"),
            Row("contrast, two foreground prototypes", "contrast_prototypes2"),
            Row("contrast, three negatives", "contrast_negatives3"),
            Row("contrast, resembling clusters left out", "contrast_resembling"),
            *_FREE,
        ),
        baseline="clusters3",
    ),
    "why": Table(
        "",
        "What the effect depends on",
        (
            Row("baseline", BASELINE),
            Row("APANet above it", "clusters3", against=BASELINE),
            *(
                row
                for label, (name, _) in TRAININGS.items()
                for row in (
                    Row(f"{label}: baseline", f"{name}_{BASELINE}"),
                    Row(f"{label}: APANet above it", name, against=f"{name}_{BASELINE}"),
                )
            ),
            Row("clusters start by k-means++", "start_plusplus"),
            Row("clusters start at random", "start_random"),
            Row("high-level features clustered", "clusters_high"),
            Row("the branch's prior: not the complement", "opposite_same"),
            Row("the branch's prior: zeros", "opposite_zeros"),
        ),
        baseline="clusters3",
    ),
}

_CONFIG = config_flag("Settings: data, backbone, episodes.")
_TABLES = flags.DEFINE_list("table", ["4", "5", "6", "7"], f"Which tables: {', '.join(TABLES)}.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where runs and tables are kept.")
_FOLDS = flags.DEFINE_list("folds", [], "Which folds; all, unless the config names some.")
_SEEDS = flags.DEFINE_list("seeds", [], "Which seeds; 0, 1, 2, unless the config names some.")
_BLOCK = flags.DEFINE_integer("block", 0, "Frames of a video that count as one test picture.", 0)
_REPORT = flags.DEFINE_bool("report", False, "Only write the tables of what is there.")


def run_missing(config: ConfigDict, names: list[str], workdir: Path) -> None:
    """Trains and evaluates the named runs on the config's folds and seeds, but finished ones."""
    config.variants = {name: RUNS[name] for name in names}
    pending = [part for part in parts(config) if not is_finished(part, workdir)]
    # Seed by seed, so that there is a whole table soon.
    pending.sort(key=lambda part: (part.config.seed, names.index(part.variant)))
    runs = [(make_run(part.config), workdir / part.folder) for part in pending]
    if config.sweep.side_by_side and runs:
        train_side_by_side(runs)
    for number, (run, folder) in enumerate(runs, 1):
        print(f"run {number} of {len(runs)}: {folder.relative_to(workdir)}", flush=True)
        train(run, folder)
        evaluate_checkpoints(run, folder)


def prepare(config: ConfigDict) -> None:
    """Sets what the tables need: folds, seeds, and every episode's counts in a file."""
    try:
        folds, seeds = (tuple(map(int, x)) for x in (_FOLDS.value, _SEEDS.value))
    except ValueError:
        raise UserError(
            f"--folds={_FOLDS.value} --seeds={_SEEDS.value}: expected whole numbers, as in 0,1,2"
        ) from None
    config.sweep.folds = folds or config.sweep.folds or ALL
    config.sweep.seeds = seeds or config.sweep.seeds or (0, 1, 2)
    config.sweep.variants = ()
    config.evaluation.write_episodes = True
    config.evaluation.pictures = 0


def main() -> None:
    """Runs what is missing, and writes the tables."""
    config, _ = config_of(_CONFIG)
    if not _WORKDIR.value:
        raise UserError("no --workdir: name the folder that runs and tables go to")
    unknown = [name for name in _TABLES.value if name not in TABLES]
    if unknown or not _TABLES.value:
        raise UserError(f"--table={','.join(unknown)}: expected some of {','.join(TABLES)}")
    prepare(config)
    keep_compiled(config.compilation_cache)
    workdir = Path(_WORKDIR.value)
    tables = [TABLES[name] for name in _TABLES.value]
    if not _REPORT.value:
        needed = set().union(*(table.runs for table in tables))
        run_missing(config, [name for name in RUNS if name in needed], workdir)
    for name, table in zip(_TABLES.value, tables, strict=True):
        print(write_table(table, workdir, workdir / f"table_{name}", _BLOCK.value))


if __name__ == "__main__":
    run_command(main)
