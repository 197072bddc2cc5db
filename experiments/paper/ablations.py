"""The paper's ablations, Tables IV to VII, and others that it has not, on any data.

    python experiments/paper/ablations.py --table=4,5,6,7 --workdir=WORKDIR \
        --config=configs/folder.py:records=RECORDS [--folds=…] [--seeds=0,1,2] [--block=0]
        [--rows=shot5,no_novel] [--report]

Every row is the one model with other settings (`RUNS`), on all folds with three seeds unless
`--folds` and `--seeds` or the config say otherwise. A run that several tables need is made once:
WORKDIR/seed*/fold*/<run> holds it as `apanet_jax.main` leaves it. A finished run is not made again,
an interrupted one continues; several processes may share a WORKDIR when they take different folds
or seeds. `--report` writes the tables of what is there and runs nothing. On accelerators the option
`side_by_side=True` of the config trains the seeds, folds and lambdas of a row in one program.

WORKDIR/table_<n>.md, .json and .csv: mIoU by fold, the mean and its standard deviation over seeds,
the paired difference to the baseline with its 95 % interval over test images (`paired.py`;
`--block` frames of a video count as one), in how many pairs of fold and seed it is above zero, and
the paper's row; in the CSV a line a run and number of supports. Rows of `training_free.py` with the
same WORKDIR stand below.

Not in the paper: `--table=hidden` trains baseline and APANet on equally many images with more or
fewer novel objects hidden in them: by the paper's explanation the gain must grow with their share.
`--table=beyond` tries changes of APANet, alone and together with the prior with contrast;
`--table=photographs` varies one choice at a time, the prior mask, training list, comparison and
number of supports among them, each beside a baseline with the same choice where it has one;
`--table=why` asks what its gain depends on: rows that train a baseline too hold APANet against that
one, the others against APANet as it is. `--table=rate` has the learning rates that the baseline was
tried with.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.runs.sweep import ALL
from apanet_jax.runtime.errors import Parser
from experiments import harness
from experiments.paper.ablation_report import Table, TableRow, write_table
from experiments.paper.run_lines import APANET, BASELINE, TRAINING_FREE

SHARES = (0.0, 0.5, 1.0)
CHOICES = {
    "comparison by feature enrichment": ("fem", "comparison=fem,pyramid_bins=1.0+0.5+0.25"),
    "no training image with a novel class": ("no_novel", "training_list=no_novel"),
    "prior mask with contrast": ("prior_contrast", "priors=contrast"),
    "prior mask by the density ratio": ("prior_density", "priors=density_ratio"),
    "trained with 5 supports": ("shot5", "shot=5"),
}
"""Settings of both baseline and APANet, one at a time: names, options."""
TRAININGS = {
    "200 steps": ("steps200", "steps=200"),
    "800 steps": ("steps800", "steps=800"),
    "half of the reduced channels dropped": ("dropout", "reduction_dropout=0.5"),
    "prior mask not scaled": ("prior_scale1", "prior_scale=1.0"),
    "no prior mask": ("no_prior", "priors="),
}
"""Settings of both baseline and APANet, to see what is left of the gain: names, options."""
BOTH = TRAININGS | CHOICES
RUNS = (
    {BASELINE: "num_clusters=0", APANET: "num_clusters=3"}
    | {f"clusters{n}": f"num_clusters={n}" for n in (1, 2, 4, 5)}
    | {"support": "regions=support,num_clusters=1"}
    | {f"lambda{100 * x:.0f}": f"agnostic_weight={x}" for x in (0.1, 0.3, 0.7, 0.9, 1.0)}
    | {f"grid{a}": f"regions=grid,num_clusters={a * a}" for a in range(2, 6)}
    | {
        f"share{100 * share:.0f}_{name}": f"hidden_share={share},num_clusters={n}"
        for share in SHARES
        for name, n in ((BASELINE, 0), (APANET, 3))
    }
    | {f"rate{factor}": f"num_clusters=0,rate_factor={factor}" for factor in (1, 3, 10, 30, 100)}
    | dict(BOTH.values())
    | {f"{name}_{BASELINE}": f"{options},num_clusters=0" for name, options in BOTH.values()}
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

_PROTOTYPE = f"{TRAINING_FREE}_prototype"
_FREE = tuple(
    TableRow(f"no training: {name}", f"{TRAINING_FREE}_{name}")
    for name in ("cosine", "stretched", "prototype")
)


def _beside_baselines(settings: Mapping[str, tuple[str, str]]) -> Iterator[TableRow]:
    for label, (name, _) in settings.items():
        yield TableRow(f"{label}: baseline", f"{name}_{BASELINE}")
        yield TableRow(f"{label}: APANet above it", name, against=f"{name}_{BASELINE}")


TABLES = {
    "4": Table(
        "IV",
        "Number of clusters n",
        (
            TableRow("n = 0 (baseline)", BASELINE, "0"),
            *(
                TableRow(f"n = {n}", APANET if n == 3 else f"clusters{n}", str(n))
                for n in range(1, 6)
            ),
            *_FREE,
        ),
    ),
    "5": Table(
        "V",
        "Where the class-agnostic prototypes come from",
        (
            TableRow("(a) none (baseline)", BASELINE, "a"),
            TableRow("(b) the support's background", "support", "b"),
            TableRow("(c) the query, one cluster", "clusters1", "c"),
            TableRow("(d) the query, three clusters", APANET, "d"),
            *_FREE,
        ),
    ),
    "6": Table(
        "VI",
        "Weight lambda of the class-agnostic branch",
        (
            TableRow("0 (baseline)", BASELINE, "0"),
            *(TableRow(str(x), f"lambda{100 * x:.0f}", str(x)) for x in (0.1, 0.3)),
            TableRow("0.5", APANET, "0.5"),
            *(TableRow(str(x), f"lambda{100 * x:.0f}", str(x)) for x in (0.7, 0.9, 1.0)),
            *_FREE,
        ),
    ),
    "7": Table(
        "VII",
        "Cells of spatial pyramid pooling in place of clusters",
        (
            TableRow("none (baseline)", BASELINE),
            *(TableRow(f"{a}x{a}", f"grid{a}", f"{a}x{a}") for a in range(2, 6)),
            TableRow("three clusters", APANET),
            TableRow("three clusters: above 5x5", APANET, against="grid5"),
            *_FREE,
        ),
    ),
    "main": Table(
        "",
        "With and without the class-agnostic branch",
        (
            *_FREE,
            TableRow("baseline", BASELINE),
            TableRow("APANet", APANET),
            TableRow("APANet, prior with contrast", "contrast"),
            TableRow("the same, resembling clusters left out", "contrast_resembling"),
            TableRow("prior with contrast, trained with 5 supports", "contrast_shot5"),
            TableRow(
                "APANet, contrast: above no training",
                "contrast",
                against=_PROTOTYPE,
            ),
            TableRow(
                "resembling left out: above no training",
                "contrast_resembling",
                against=_PROTOTYPE,
            ),
            TableRow(
                "trained with 5: above no training",
                "contrast_shot5",
                against=_PROTOTYPE,
            ),
        ),
    ),
    "photographs": Table(
        "",
        "One choice at a time",
        (
            *_FREE,
            *(
                TableRow(f"no training: {name.replace('_', ' ')}", f"{TRAINING_FREE}_{name}")
                for name in ("density_ratio", "density_clusters")
            ),
            TableRow("baseline", BASELINE),
            TableRow("APANet", APANET),
            TableRow("one cluster", "clusters1"),
            TableRow("five clusters", "clusters5"),
            TableRow("resembling clusters left out", "resembling"),
            *_beside_baselines(CHOICES),
        ),
    ),
    "rate": Table(
        "",
        "Learning rate of the baseline, times 0.0025",
        tuple(TableRow(str(factor), f"rate{factor}") for factor in (1, 3, 10, 30, 100)),
    ),
    "hidden": Table(
        "",
        "Training images with a hidden novel object",
        tuple(
            TableRow(
                f"{share:.0%}: {name}",
                f"share{100 * share:.0f}_{name}",
                against="" if name == BASELINE else f"share{100 * share:.0f}_{BASELINE}",
            )
            for share in SHARES
            for name in (BASELINE, APANET)
        ),
        baseline=f"share0_{BASELINE}",
    ),
    "beyond": Table(
        "",
        "Beyond the paper",
        (
            TableRow("baseline", BASELINE),
            TableRow("APANet", APANET),
            TableRow("half of the reduced channels dropped", "dropout"),
            TableRow("three negatives", "negatives3"),
            TableRow("resembling clusters left out", "resembling"),
            TableRow("two foreground prototypes", "prototypes2"),
            TableRow("three foreground prototypes", "prototypes3"),
            TableRow("priors of two depths", "depths2"),
            TableRow("priors of three", "depths3"),
            TableRow("prior with contrast", "contrast"),
            TableRow("prior with contrast, no branch", "contrast_baseline"),
            TableRow("contrast, two foreground prototypes", "contrast_prototypes2"),
            TableRow("contrast, three negatives", "contrast_negatives3"),
            TableRow("contrast, resembling clusters left out", "contrast_resembling"),
            *_FREE,
        ),
        baseline=APANET,
    ),
    "why": Table(
        "",
        "What the effect depends on",
        (
            TableRow("baseline", BASELINE),
            TableRow("APANet above it", APANET, against=BASELINE),
            *_beside_baselines(TRAININGS),
            TableRow("clusters start by k-means++", "start_plusplus"),
            TableRow("clusters start at random", "start_random"),
            TableRow("high-level features clustered", "clusters_high"),
            TableRow("the branch's prior: not the complement", "opposite_same"),
            TableRow("the branch's prior: zeros", "opposite_zeros"),
        ),
        baseline=APANET,
    ),
}


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, config="data, backbone, episodes")
    tables = harness.some_of(TABLES)
    parser.add_argument("--table", type=tables, default="4,5,6,7", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--workdir", type=Path, required=True, help="for runs and tables")
    parser.add_argument("--folds", type=harness.numbers, help="all, unless the config names some")
    parser.add_argument("--seeds", type=harness.numbers, help="0,1,2, unless the config names some")
    frames = {"type": harness.whole(0), "default": 0}
    parser.add_argument("--block", **frames, help="frames of a video that count as one test image")
    rows = {"type": harness.some_of(RUNS), "default": []}
    parser.add_argument("--rows", **rows, help="run these of the tables' rows only (all)")
    parser.add_argument("--report", action="store_true", help="only write tables of what is there")
    return parser


def prepare(config: ConfigDict, runs: set[str], folds: list[int], seeds: list[int]) -> None:
    """Sets what the tables need: runs, folds, seeds, and every episode's counts in a file."""
    config.variants = {name: options for name, options in RUNS.items() if name in runs}
    config.sweep.variants = ()
    config.sweep.folds = tuple(folds or config.sweep.folds or ALL)
    config.sweep.seeds = tuple(seeds or config.sweep.seeds or (0, 1, 2))
    config.evaluation.write_episodes = True
    config.evaluation.pictures = config.evaluation.bundled = 0


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, and writes the tables."""
    given = arguments().parse_args(argv)
    tables = {name: TABLES[name] for name in given.table}
    needed = set().union(*(table.runs for table in tables.values()))
    needed = needed & set(given.rows) if given.rows else needed
    prepare(given.config, needed, given.folds, given.seeds)
    if not given.report:
        harness.run_missing(given.config, given.workdir)
    for name, table in tables.items():
        print(write_table(table, given.workdir, given.workdir / f"table_{name}", given.block))


if __name__ == "__main__":
    main()
