"""The page to try it on: what its parts do, and the whole of it through its server."""

import base64
import io
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apanet_jax.demo import given as of
from apanet_jax.demo import page, server, shown
from apanet_jax.demo.given import Given, Query, Support
from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.runtime.errors import UserError
from tests.inference.test_segmenter import GREEN, LEFT, RED, RIGHT, ColourMatcher, scene
from tests.scripts import ROOT


def saved(folder, name, colour=RED, where=LEFT):
    path = folder / name
    Image.fromarray(scene(colour, where)[0]).save(path)
    return path


def painted(mask):
    """Returns what the editor gives when `mask` is painted in it."""
    return {"layers": [np.dstack([*[np.full(mask.shape, 255, np.uint8)] * 3, mask * 153])]}


def complete():
    image, mask = scene(RED, LEFT)
    queries = [Query("<b>.png", scene(RED, RIGHT)[0]), Query("b", scene(GREEN, RIGHT)[0])]
    return Given((Support("a", image, mask, mask),), 0, tuple(queries))


def masks_in(html):
    """Returns the masks that the cards offer to save."""
    encoded = re.findall(r'download="[^"]*" href="data:image/png;base64,([^"]*)"', html)
    return [np.array(Image.open(io.BytesIO(base64.b64decode(x)))) == 255 for x in encoded]


def test_the_cards_show_the_masks_of_the_segmenter_one_more_each_time():
    visit = complete()
    *first, html = shown.cards(visit, ColourMatcher())
    assert [x.count("<section") for x in (*first, html)] == [1, 2]
    segmenter = Segmenter(ColourMatcher()).fit([scene(RED, LEFT)[0]], [scene(RED, LEFT)[1]])
    expected = segmenter.predict(query.image for query in visit.queries)
    np.testing.assert_array_equal(masks_in(html), expected)
    assert expected[0].any() and html.count(">found<") == 1 and html.count(">not found<") == 1
    assert "<b>.png" not in html and "&lt;b&gt;.png" in html
    assert not re.search(r'(src|href)="(?!data:)', html)


def test_what_is_painted_adds_up_and_is_wiped_off():
    image, mask = scene(RED, LEFT)
    visit = Given((Support("a", image), Support("b", image)))
    assert of.unpainted(of.with_painted(visit, None)) == [0, 1]
    once = of.with_painted(visit, painted(mask))
    np.testing.assert_array_equal(once.supports[0].mask, mask)
    assert of.unpainted(once) == [1]
    # What is rubbed out before the editor shows it anew is gone, and is there afterwards.
    assert of.with_painted(once, painted(mask & False)).supports[0].mask is None
    more = of.with_painted(of.shown_anew(once), painted(~mask))
    assert more.supports[0].mask.all()
    assert of.unpainted(of.wiped(more)) == [0, 1]
    large = np.kron(mask, np.ones((2, 2), bool))
    np.testing.assert_array_equal(of.with_painted(visit, painted(large)).supports[0].mask, mask)
    left = of.without_current(once._replace(current=1))
    assert left.current == 0 and [x.name for x in left.supports] == ["a"]
    assert of.without_current(of.without_current(left)) == Given()


def test_uploads_are_bounded_and_told_without_their_folder(tmp_path, monkeypatch):
    good = saved(tmp_path, "good.png")
    with pytest.raises(UserError, match="6 pictures that show the thing: 5 at most"):
        of.with_supports(Given(), [good] * 6)
    with pytest.raises(UserError, match="13 .*: 12 at most, and 10 are there already"):
        of.with_queries(of.with_queries(Given(), [good] * 10), [good] * 3)
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    with pytest.raises(UserError, match=r"^notes\.png is no image"):
        of.with_queries(Given(), [good, text])
    with pytest.raises(UserError, match=r"^gone\.png cannot be read"):
        of.with_queries(Given(), [tmp_path / "gone.png"])
    monkeypatch.setattr(of, "LARGEST_PICTURE", 80 * 120 - 1)
    with pytest.raises(UserError, match=r"^good\.png has 120x80 pixels"):
        of.with_queries(Given(), [good])
    monkeypatch.setattr(of, "LARGEST_FILE", 10)
    with pytest.raises(UserError, match=r"^good\.png has .* MB"):
        of.with_queries(Given(), [good])


def test_large_pictures_are_made_smaller(tmp_path):
    path = tmp_path / "wide.jpg"
    Image.new("RGB", (2 * of.LARGEST_SIDE, of.LARGEST_SIDE)).save(path)
    (query,) = of.with_queries(Given(), [path]).queries
    assert query.image.shape == (of.LARGEST_SIDE // 2, of.LARGEST_SIDE, 3)


@pytest.mark.parametrize("thing", of.SAMPLES)
def test_a_sample_fills_in_everything(thing):
    visit = of.drawn_sample(thing)
    assert 1 <= len(visit.supports) <= of.MOST_SUPPORTS and len(visit.queries) <= of.MOST_QUERIES
    assert not of.unpainted(visit)
    again = of.drawn_sample(thing)
    assert all(
        (x.image == y.image).all() for x, y in zip(visit.queries, again.queries, strict=True)
    )


def test_the_page_says_what_to_do_next():
    visit, (image, mask) = complete(), scene(RED, LEFT)
    first = [Given(), Given((Support("a", image), Support("b", image, mask, mask)))]
    assert "Choose pictures that show" in page._next_steps(first[0])[0]
    assert "Paint over the whole thing" in page._next_steps(first[1])[0]
    assert "Then click picture 1" in page._next_steps(first[1]._replace(current=1))[0]
    assert "step 2" in page._next_steps(visit._replace(queries=()))[1]
    assert "press the button" in page._next_steps(visit)[1]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("temporary")))
        with server.serving(ColourMatcher(), "127.0.0.1", free_port()) as address:
            yield address


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.mark.slow
def test_a_visit_through_the_server(address, tmp_path):
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False, download_files=False)
    image, mask = scene(RED, LEFT)
    layer = tmp_path / "layer.png"
    rgba = np.dstack([*[mask.astype(np.uint8) * 255] * 3, mask.astype(np.uint8) * 153])
    Image.fromarray(rgba).save(layer)
    support, query = saved(tmp_path, "a.png"), saved(tmp_path, "q.png", where=RIGHT)
    blank = {"background": None, "layers": [], "composite": None, "id": None}
    paint = blank | {"layers": [handle_file(layer)]}
    client.predict(blank, [handle_file(support)], api_name="/supports")
    *_, told, nothing = client.predict(blank, api_name="/find")
    assert "Nothing is painted on picture 1" in told and not nothing
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    told = client.predict(paint, [handle_file(text)], api_name="/queries")[-1]
    assert "notes.png is no image" in told and str(tmp_path) not in told
    client.predict(paint, [handle_file(query)], api_name="/queries")
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    assert not list(folder.rglob("q.png")) and not list(folder.rglob("notes.png"))
    *_, html = client.predict(paint, api_name="/find")
    segmenter = Segmenter(ColourMatcher()).fit([image], [mask])
    np.testing.assert_array_equal(masks_in(html), segmenter.predict([query]))
    assert masks_in(html)[0].any()
    large = tmp_path / "large.png"
    large.write_bytes(bytes(of.LARGEST_FILE + 1))
    with pytest.raises(Exception, match="(?i)exceeds|413"):
        client.predict(blank, [handle_file(large)], api_name="/queries")
    other = Client(address, verbose=False, download_files=False)
    assert "No picture shows" in other.predict(blank, api_name="/find")[-2]


@pytest.mark.slow
def test_a_port_that_is_taken_is_told(address):
    with pytest.raises(UserError, match="is taken or not allowed"):
        with server.serving(ColourMatcher(), "127.0.0.1", int(address.rstrip("/")[-5:])):
            pass


@pytest.mark.slow
def test_nothing_is_kept_after_sigterm(tmp_path):
    port, environment = free_port(), os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-m", "apanet_jax.demo", f"--port={port}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stdout.readline().startswith(f"open http://127.0.0.1:{port}")
        assert list(tmp_path.glob("apanet_jax_demo_*"))
        started.send_signal(signal.SIGTERM)
        _, errors = started.communicate(timeout=60)
    assert (started.returncode, errors) == (143, "stopped by the user\n")
    assert not list(tmp_path.glob("apanet_jax_demo_*"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--port=0"], "from 1 to 65535"), (["--port=x"], "invalid int"), (["--prot=1"], "--help")],
)
def test_a_wrong_command_line_is_one_line(arguments, says, capsys):
    with pytest.raises(SystemExit) as ended:
        server.main(arguments)
    printed = capsys.readouterr()
    assert ended.value.code == 2 and says in printed.err and printed.err.count("\n") == 1


def test_without_gradio_it_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit) as ended:
        server.main([])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and "pip install" in error and error.count("\n") == 1
