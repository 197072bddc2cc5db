"""The whole network as one program: what it gives, what is written, and who can run it."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from jax.export import deserialize
from PIL import Image

import apanet_jax
from apanet_jax.data.sources.synthetic import draw_image
from apanet_jax.export import main
from apanet_jax.inference.answers.mask_options import MaskOptions
from apanet_jax.inference.heads import program
from apanet_jax.inference.heads.exported_head import CARD, PROGRAM, SETTINGS, export
from apanet_jax.inference.heads.saved_head import DECISION, GENERAL_HEAD, WEIGHTS, open_head
from apanet_jax.inference.matching.geometry import Grid, upsample
from apanet_jax.runtime.errors import UserError
from tests.scripts import ROOT

SIZE, SHOTS = 65, 2


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The head that comes with the package, with its program of a small size."""
    folder = tmp_path_factory.mktemp("head")
    arguments = [f"--output={folder}", "--program", f"--size={SIZE}", f"--shots={SHOTS}"]
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    return folder


def read(folder):
    return deserialize(bytearray((folder / PROGRAM).read_bytes()))


@pytest.mark.slow
def test_it_gives_what_the_network_gives_whatever_the_batch(exported):
    rng = np.random.default_rng(0)
    queries, supports = (rng.integers(0, 256, (n, SIZE, SIZE, 3), np.uint8) for n in (3, SHOTS))
    masks = np.zeros((SHOTS, SIZE, SIZE), np.uint8)
    masks[0, 8:40, 16:48], masks[1, 20:60, 10:30], masks[:, 56:] = 1, 1, 255
    matcher = open_head(GENERAL_HEAD).matcher(SIZE)
    learned = matcher.learn([matcher.embed(x) for x in supports], list(masks))
    scale = json.loads((GENERAL_HEAD / DECISION).read_text())["decisions"][str(SHOTS)]["scale"]
    find = read(exported).call
    for batch in (1, 3):
        found = np.asarray(find(queries[:batch], supports, masks))
        assert found.shape == (batch, SIZE, SIZE) and found.dtype == np.float32
        for query, odds in zip(queries, found, strict=False):
            margins = np.asarray(matcher.margins(matcher.embed(query), learned))
            # A larger square whose sides are a multiple of the stride, so that none is cut off.
            side = 8 * len(margins)
            grid = Grid(side, len(margins), 8)
            pixels = upsample(margins, (side, side), grid)[:SIZE, :SIZE]
            np.testing.assert_allclose(odds, pixels / scale, atol=1e-4)


@pytest.mark.slow
def test_one_file_is_for_all_platforms_and_says_what_it_takes(exported):
    read_back = read(exported)
    assert set(read_back.platforms) == {"cpu", "cuda", "tpu"}
    shapes = [tuple(map(str, x.shape)) for x in (*read_back.in_avals, *read_back.out_avals)]
    side = str(SIZE)
    assert shapes == [
        ("batch", side, side, "3"),
        (str(SHOTS), side, side, "3"),
        (str(SHOTS), side, side),
        ("batch", side, side),
    ]
    # The backbone's last block, which this head does not look at, has 2 of its 2.9 million numbers.
    assert (exported / PROGRAM).stat().st_size < 4_000_000


@pytest.mark.slow
def test_the_card_tells_of_the_program_and_its_check_once(exported, tmp_path):
    card = (exported / CARD).read_text()
    assert card.count("## Program") == 1 and "the largest difference was" in card
    assert f"| `supports` | uint8 [{SHOTS}, {SIZE}, {SIZE}, 3] |" in card
    original = (GENERAL_HEAD / CARD).read_text()
    export(exported, tmp_path / "copy")
    assert (tmp_path / "copy" / CARD).read_text() == original
    assert not (tmp_path / "copy" / PROGRAM).exists()
    for name in (WEIGHTS, SETTINGS, DECISION):
        assert (tmp_path / "copy" / name).read_bytes() == (GENERAL_HEAD / name).read_bytes()
    with pytest.raises(UserError, match="program.jax is of an earlier export"):
        export(GENERAL_HEAD, exported)


@pytest.mark.slow
def test_it_is_served_where_this_package_is_not(exported, tmp_path):
    pictures, arguments = {}, []
    for number in range(SHOTS + 3):
        image, label = draw_image(np.random.default_rng(number), [2], 96)
        high = slice(0, 96 if number % 2 else 72)
        pictures[number] = image[high], label[high] == 3
        image, mask = (Image.fromarray(x) for x in pictures[number])
        image.save(tmp_path / f"{number}.png")
        mask.save(tmp_path / f"{number}_mask.png")
    shutil.copy(ROOT / "experiments" / "own_pictures" / "serve_program.py", tmp_path)
    for number in range(SHOTS):
        arguments += ["--support", f"{number}.png", f"{number}_mask.png"]
    queries = [f"{number}.png" for number in range(SHOTS, len(pictures))]
    # As the main module would be, but that nothing of this package can be imported.
    alone = (
        "import runpy, sys; sys.modules['apanet_jax'] = None; sys.modules['cv2'] = None; "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", alone, "serve_program.py", str(exported / PROGRAM)]
    done = subprocess.run(
        [*command, *arguments, "--output=found", *queries],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    segmenter = apanet_jax.load(head="drawn", size=SIZE)
    segmenter.options = MaskOptions(refine=False)
    segmenter.fit(*zip(*(pictures[n] for n in range(SHOTS)), strict=True))
    expected = segmenter.predict([pictures[n][0] for n in range(SHOTS, len(pictures))])
    found = []
    for number, mask in enumerate(expected, SHOTS):
        found.append(np.asarray(Image.open(tmp_path / "found" / f"{number}_mask.png")))
        assert found[-1].shape == mask.shape and set(np.unique(found[-1])) <= {0, 255}
    found, expected = (np.concatenate([x.ravel() > 0 for x in y]) for y in (found, expected))
    assert 0.01 < expected.mean() < 0.99 and (found == expected).mean() > 0.97


@pytest.mark.slow
def test_a_program_that_gives_other_numbers_is_not_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program, "_TOLERANCES", {"float32": -1.0})
    with pytest.raises(SystemExit, match="2"):
        main([f"--output={tmp_path / 'out'}", "--program", f"--size={SIZE}", "--shots=1"])
    errors = capsys.readouterr().err
    assert "the program's log-odds differ from the network's" in errors
    assert errors.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--program", "--size=64"], "--size=64: expected 65 to 4097"),
        (["--program", "--size=large"], "invalid int value: 'large'"),
        (["--program", "--shots=0"], "--shots=0: expected 1 to 100"),
        (["--shots=2"], "add --program"),
        (["--size=0"], "add --program"),
        (["--program", "--workdir=nowhere"], "nowhere is no folder"),
        (["--program", f"--workdir={GENERAL_HEAD}", "--checkpoint=best"], "is an exported head"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["--output=out", *arguments])
    printed = capsys.readouterr()
    assert says in printed.err and printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
