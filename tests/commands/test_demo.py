"""The page to try it on: what its parts do, and the whole of it through its server."""

import base64
import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks

from apanet_jax.demo import command, finding, server, steps, uploads, visit
from apanet_jax.demo.visit import RUB_OUT, Query, Support, Visit
from apanet_jax.inference.files.formats.instances import AnnotatedImage, instances
from apanet_jax.inference.files.formats.labelme import labelme_file
from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.runtime.errors import UserError
from experiments.own_pictures.reverse_proxy import proxied
from tests.commands.test_bad_input import png_that_says
from tests.inference.test_segmenter import GREEN, LEFT, RED, RIGHT, ColourMatcher, scene
from tests.scripts import ROOT


@pytest.fixture(scope="module")
def editor():
    """Gradio is imported where it is used: other processes that collect tests need not."""
    from apanet_jax.demo import editor

    return editor


def saved(folder, name, colour=RED, where=LEFT):
    path = folder / name
    Image.fromarray(scene(colour, where)[0]).save(path)
    return path


def painted(mask):
    """Returns what the editor gives when `mask` is painted in it."""
    return {"layers": [np.dstack([*[np.full(mask.shape, 255, np.uint8)] * 3, mask * 153])]}


def complete():
    image, mask = scene(RED, LEFT)
    mask = mask.astype(np.uint8)
    queries = [Query("<b>.png", scene(RED, RIGHT)[0]), Query("b", scene(GREEN, RIGHT)[0])]
    return Visit((Support("a.png", image, mask, mask),), 0, tuple(queries))


def masks_in(html):
    """Returns the masks that the cards offer to save."""
    encoded = re.findall(r'download="[^"]*" href="data:image/png;base64,([^"]*)"', html)
    return [np.array(Image.open(io.BytesIO(base64.b64decode(x)))) == 255 for x in encoded]


def test_the_cards_show_the_masks_of_the_segmenter_one_more_each_time():
    entered = complete()
    *first, (after, html) = finding.found(entered, ColourMatcher())
    assert [x.count("<section") for x in (first[0][1], html)] == [1, 2]
    segmenter = Segmenter(ColourMatcher()).fit([scene(RED, LEFT)[0]], [scene(RED, LEFT)[1]])
    expected = segmenter.predict(query.image for query in entered.queries)
    np.testing.assert_array_equal(masks_in(html), expected)
    np.testing.assert_array_equal([x.label for x in after.queries], expected)
    assert expected[0].any() and html.count(">found<") == 1 and html.count(">not found<") == 1
    assert "<b>.png" not in html and "&lt;b&gt;.png" in html
    assert not re.search(r'(src|href)="(?!data:)', html)


def test_what_is_painted_adds_up_and_is_wiped_off():
    image, mask = scene(RED, LEFT)
    mask = mask.astype(np.uint8)
    entered = Visit((Support("a", image), Support("b", image)))
    assert visit.unpainted(visit.with_painted(entered, None)) == [0, 1]
    once = visit.with_painted(entered, painted(mask))
    np.testing.assert_array_equal(once.supports[0].label, mask)
    assert visit.unpainted(once) == [1]
    # What is rubbed out before the editor shows it again is gone, and is there afterwards.
    assert visit.with_painted(once, painted(mask * 0)).supports[0].label is None
    more = visit.with_painted(visit.shown_again(once), painted(1 - mask))
    assert more.supports[0].label.all()
    rubbed = visit.shown_again(once)._replace(painting=RUB_OUT)
    assert visit.with_painted(rubbed, painted(mask)).supports[0].label is None
    assert visit.unpainted(visit.wiped(more)) == [0, 1]
    large = np.kron(mask, np.ones((2, 2), np.uint8))
    np.testing.assert_array_equal(
        visit.with_painted(entered, painted(large)).supports[0].label, mask
    )
    left = visit.without_current(once._replace(current=1))
    assert left.current == 0 and [x.name for x in left.supports] == ["a"]
    assert visit.without_current(visit.without_current(left)) == Visit()


def test_uploads_are_bounded_and_named_without_their_folder(tmp_path, monkeypatch):
    good = saved(tmp_path, "good.png")
    with pytest.raises(UserError, match="two files are called good.png"):
        uploads.with_supports(Visit(), [good] * 2)
    many = [saved(tmp_path, f"{number}.png") for number in range(11)]
    with pytest.raises(UserError, match="11 images that show the classes: 10 at most"):
        uploads.with_supports(Visit(), many)
    with pytest.raises(UserError, match="13 .*: 12 at most, and 10 are there already"):
        uploads.with_queries(uploads.with_queries(Visit(), [good] * 10), [good] * 3)
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    with pytest.raises(UserError, match=r"^notes\.png is no "):
        uploads.with_queries(Visit(), [good, text])
    with pytest.raises(UserError, match=r"^gone\.png cannot be read"):
        uploads.with_queries(Visit(), [tmp_path / "gone.png"])
    monkeypatch.setattr(uploads, "LARGEST_IMAGE", 80 * 120 - 1)
    with pytest.raises(UserError, match=r"^good\.png has 120x80 pixels"):
        uploads.with_queries(Visit(), [good])
    monkeypatch.setattr(uploads, "LARGEST_FILE", 10)
    with pytest.raises(UserError, match=r"^good\.png has .* MB"):
        uploads.with_queries(Visit(), [good])


def test_json_with_a_mask_in_it_is_no_image_and_is_not_decoded(tmp_path):
    """A few kilobytes of JSON can hold a mask that says to have billions of pixels."""
    shape = {"label": "a", "points": [[0, 0]], "shape_type": "mask"}
    shape["mask"] = base64.b64encode(png_that_says(60000, 60000)).decode()
    for name in ("a.json", "a.png", "a.jpg"):
        path = tmp_path / name
        path.write_text(json.dumps({"shapes": [shape], "imageHeight": 9, "imageWidth": 9}))
        with pytest.raises(UserError, match=f"^{name} is no image that can be read"):
            uploads.with_queries(Visit(), [path])
    with pytest.raises(UserError, match="^a.png is no image that can be read"):
        uploads.with_supports(Visit(), [tmp_path / "a.png"])
    image, mask = saved(tmp_path, "b.png"), tmp_path / "b.json"
    mask.write_text((tmp_path / "a.json").read_text())
    with pytest.raises(UserError, match="^b.png is 120x80 pixels and in b.json 9x9"):
        uploads.with_supports(Visit(), [image, mask])
    mask.write_text(json.dumps({"shapes": [shape], "imageHeight": 80, "imageWidth": 120}))
    with pytest.raises(UserError, match="^b.json .*60000x60000 pixels, too many"):
        uploads.with_supports(Visit(), [image, mask])
    mask.unlink()
    (tmp_path / "b_mask.png").write_bytes(png_that_says(60000, 60000))
    with pytest.raises(UserError, match="^b_mask.png has 60000x60000 pixels"):
        uploads.with_supports(Visit(), [image, tmp_path / "b_mask.png"])


def png(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def test_what_the_editor_sends_is_bounded_and_its_files_are_removed(editor, tmp_path, monkeypatch):
    import gradio

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    def sent(*contents, number=None):
        files = [tmp_path / "temporary" / f"{i}.png" for i in range(len(contents))]
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
        layers = [SimpleNamespace(path=str(file)) for file in files]
        return SimpleNamespace(layers=layers, composite=None, background=None, id=number)

    paint = Image.new("RGBA", (6, 4), (9, 9, 9, 255))
    value = editor.editor_layers(sent(png(paint)), {})
    assert value["background"] is None and value["composite"] is None
    np.testing.assert_array_equal(value["layers"], [np.array(paint)])
    blobs = {"7": SimpleNamespace(layers=[png(paint), None], composite=png(paint))}
    assert len(editor.editor_layers(sent(number="7"), blobs)["layers"]) == 1 and not blobs
    assert editor.editor_layers(None, {}) is None
    assert editor.editor_layers(sent(number="gone"), {}) is None
    for contents, says in (
        ([png(paint)] * 5, "5 layers of paint: 4 at most"),
        ([png_that_says(20000, 20000)], "20000x20000 pixels, too many"),
        ([b"%!PS-Adobe-3.0 EPSF-3.0"], "the paint is no image"),
        ([b'{"shapes": []}'], "the paint is no image"),
        ([bytes(uploads.LARGEST_FILE + 1)], "20 at most"),
        ([png(paint)[:-30]], "cut short or damaged"),
    ):
        with pytest.raises(gradio.Error, match=says):
            editor.editor_layers(sent(*contents), {})
        assert not list((tmp_path / "temporary").iterdir())
    outside = tmp_path / "mine.png"
    outside.write_bytes(png(paint))
    given = SimpleNamespace(layers=[SimpleNamespace(path=str(outside))], composite=None, id=None)
    editor.editor_layers(given, {})
    assert outside.exists()


def test_large_images_are_shrunk(tmp_path):
    path = tmp_path / "wide.jpg"
    Image.new("RGB", (2 * uploads.LARGEST_SIDE, uploads.LARGEST_SIDE)).save(path)
    (query,) = uploads.with_queries(Visit(), [path]).queries
    assert query.image.shape == (uploads.LARGEST_SIDE // 2, uploads.LARGEST_SIDE, 3)


@pytest.mark.parametrize("name", visit.SAMPLES[:1])
def test_a_sample_enters_everything(name):
    sample = visit.drawn_sample(name)
    assert 1 <= len(sample.supports) <= visit.MOST_SUPPORTS
    assert len(sample.queries) <= visit.MOST_QUERIES and not visit.unpainted(sample)
    again = visit.drawn_sample(name)
    assert all(
        (x.image == y.image).all() for x, y in zip(sample.queries, again.queries, strict=True)
    )


def test_masks_come_along_and_bring_their_classes(tmp_path):
    images = [saved(tmp_path, f"{name}.png", colour) for name, colour in (("a", RED), ("b", GREEN))]
    labels = scene(RED, LEFT)[1].astype(np.uint8)
    labels[30:40, 80:90] = 2
    found = instances(labels, [1, 1], lambda _: np.full(labels.shape, 255, np.uint8))
    content = labelme_file(AnnotatedImage("a.png", labels.shape, found), ["beetle", "leaf"])
    (tmp_path / "a.json").write_text(json.dumps(content))
    entered = uploads.with_supports(Visit(), [*images, tmp_path / "a.json"])
    assert entered.classes == ("beetle", "leaf") and visit.unpainted(entered) == [1]
    assert entered.current == 1
    np.testing.assert_array_equal(entered.supports[0].label, labels)
    # A drawn mask of one class has no name, and is of the class that is being painted.
    Image.fromarray((labels == 1) * np.uint8(255)).save(tmp_path / "b_mask.png")
    later = uploads.with_supports(entered, [tmp_path / "b_mask.png"])
    assert len(later.supports) == 2 and visit.classes_on(later.supports[1]) == [1]
    Image.fromarray((labels == 1) * np.uint8(255)).save(tmp_path / "other.png")
    chosen = entered._replace(painting=0)
    assert visit.classes_on(uploads.with_mask(chosen, tmp_path / "other.png").supports[1]) == [0]
    (tmp_path / "c.json").write_text((tmp_path / "a.json").read_text())
    with pytest.raises(UserError, match="^c.json .*belongs to no image"):
        uploads.with_supports(later, [tmp_path / "c.json"])
    with pytest.raises(UserError, match="No image is there yet"):
        uploads.with_mask(Visit(), tmp_path / "a.json")


def several_classes():
    first, second = scene(RED, LEFT), scene(GREEN, LEFT)
    label = first[1].astype(np.uint8)
    supports = (
        Support("a.png", first[0], label, label),
        Support("a.jpg", second[0], label, label * 2),
    )
    query = Query("q.png", scene(GREEN, RIGHT)[0], (160, 240))
    return Visit(supports, 0, (query, Query("r.png", scene(RED, RIGHT)[0])), ("beetle", "leaf"))


def test_several_classes_are_found_corrected_and_downloaded():
    entered = several_classes()
    *_, (after, html) = finding.found(entered, ColourMatcher())
    fitted = Segmenter(ColourMatcher()).fit(
        [x.image for x in entered.supports], [scene(RED, LEFT)[1]] * 2, ["beetle", "leaf"]
    )
    expected = fitted.predict(query.image for query in entered.queries)
    np.testing.assert_array_equal([x.label for x in after.queries], expected)
    links = dict(
        re.findall(r'download="([^"]*)" href="data:application/[a-z]*;base64,([^"]*)"', html)
    )
    content = json.loads(base64.b64decode(links["coco.json"]))
    assert [x["file_name"] for x in content["images"]] == ["a.png", "a_2.jpg", "q.png", "r.png"]
    # At the size of the file that was uploaded.
    (of_query,) = [x for x in content["annotations"] if x["image_id"] == 3]
    decoded = coco_masks.decode(of_query["segmentation"])
    np.testing.assert_array_equal(decoded, np.kron(expected[0] == 2, np.ones((2, 2))))
    assert of_query["category_id"] == 2 and 0 < of_query["score"] < 1
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(links["labelme.zip"]))) as opened:
        assert opened.namelist() == ["a.json", "a_2.json", "q.json", "r.json"]
        shapes = json.loads(opened.read("q.json"))["shapes"]
    assert [x["label"] for x in shapes] == ["leaf"]
    with pytest.raises(UserError, match="q.png has no mask yet"):
        visit.with_corrected(entered, 0)
    corrected = visit.with_corrected(after, 0)
    assert [x.name for x in corrected.queries] == ["r.png"] and corrected.current == 2
    np.testing.assert_array_equal(corrected.supports[2].label, expected[0])
    rubbed = corrected._replace(painting=RUB_OUT)
    top = np.zeros((80, 120), np.uint8)
    top[:40] = 1
    again = visit.with_painted(visit.shown_again(rubbed), painted(top))
    np.testing.assert_array_equal(again.supports[2].label, expected[0] * (1 - top))
    *_, (_, html) = finding.found(again, ColourMatcher())
    assert html.count("<section") == 1


def test_the_page_says_what_to_do_next():
    entered, (image, mask) = complete(), scene(RED, LEFT)
    first = [Visit(), None]
    mask = mask.astype(np.uint8)
    first[1] = Visit((Support("a", image), Support("b", image, mask, mask)))
    assert "Choose images that show" in steps.next_steps(first[0])[0]
    assert "Paint over the whole object" in steps.next_steps(first[1])[0]
    assert "Then click image 1" in steps.next_steps(first[1]._replace(current=1))[0]
    assert "step 2" in steps.next_steps(entered._replace(queries=()))[1]
    assert "press the button" in steps.next_steps(entered)[1]
    several = visit.with_class(entered, "leaf")
    assert several.classes == ("object", "leaf") and several.painting == 1
    assert "each leaf" in steps.next_steps(several)[0]
    with pytest.raises(UserError, match="leaf is painted on no image"):
        steps.check_complete(several)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("temporary")))
        with contextlib.ExitStack() as stack:
            with pytest.MonkeyPatch.context() as proxies:
                # Nothing listens there: Gradio used to ask its own address through it.
                proxies.setenv("http_proxy", "http://127.0.0.1:9")
                proxies.delenv("no_proxy", raising=False)
                serving = server.serving(ColourMatcher(), "127.0.0.1", free_port())
                address = stack.enter_context(serving)
                assert os.environ.get("no_proxy") is None
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
    assert "Nothing is painted on image 1" in told and not nothing
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    told = client.predict(paint, [handle_file(text)], api_name="/queries")[-1]
    assert "notes.png is no " in told and str(tmp_path) not in told
    client.predict(paint, [handle_file(query)], api_name="/queries")
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    assert not list(folder.rglob("q.png")) and not list(folder.rglob("notes.png"))
    *_, html = client.predict(paint, api_name="/find")
    # Nothing that was sent is left: neither images nor what was painted.
    assert not list(folder.rglob("*.png"))
    segmenter = Segmenter(ColourMatcher()).fit([image], [mask])
    np.testing.assert_array_equal(masks_in(html), segmenter.predict([query]))
    assert masks_in(html)[0].any()
    large = tmp_path / "large.png"
    large.write_bytes(bytes(uploads.LARGEST_FILE + 1))
    with pytest.raises(Exception, match="(?i)exceeds|413"):
        client.predict(blank, [handle_file(large)], api_name="/queries")
    other = Client(address, verbose=False, download_files=False)
    assert "No image shows" in other.predict(blank, api_name="/find")[-2]


@pytest.mark.slow
def test_behind_a_proxy_below_a_path_nothing_leads_out_of_it(tmp_path):
    """The proxy takes the path off; what the page asks for must have it."""
    from gradio_client import Client, handle_file

    below, port = "/tools/segment", free_port()
    with (
        server.serving(ColourMatcher(), "127.0.0.1", port, root_path=below) as address,
        proxied(address, below, free_port()) as outside,
    ):
        assert outside.endswith(f"{below}/")
        text = httpx.get(outside, trust_env=False).text
        assert re.search(rf'"root":"http://127.0.0.1:[0-9]+{below}"', text)
        client = Client(outside, verbose=False, download_files=False)
        client.predict(api_name="/sample_bottle")
        blank = {"background": None, "layers": [], "composite": None, "id": None}
        client.predict(blank, [handle_file(saved(tmp_path, "q.png"))], api_name="/queries")
        *_, html = client.predict(blank, api_name="/find")
    assert html.count("<section") == visit._SAMPLE_QUERIES + 1


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
    [
        (["--port=0"], "from 1 to 65535"),
        (["--port=x"], "invalid int"),
        (["--prot=1"], "--help"),
        (["--root-path=segment"], "as in /segment"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, says, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    printed = capsys.readouterr()
    assert ended.value.code == 2 and says in printed.err and printed.err.count("\n") == 1


def test_without_gradio_it_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit) as ended:
        command.main([])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and "pip install" in error and error.count("\n") == 1
