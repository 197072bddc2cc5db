"""The one reader of images, against Pillow's and OpenCV's own readings and against arithmetic."""

import concurrent.futures
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image, ImageOps, PngImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from apanet_jax.data.images.encoded_images import FORMATS
from apanet_jax.data.images.exif import exif_orientation, turned_upright, without_metadata
from apanet_jax.data.images.gray_levels import stretched
from apanet_jax.data.images.reader import decode_image, decode_verified, read_image
from apanet_jax.data.sources.source import read_image_size
from apanet_jax.runtime.errors import UserError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 255, (6, 10, 3), np.uint8)
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    b'tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def encoded(kind, image=PIXELS, **options):
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(order, kind, value, count=1, tag=0x0112):
    e = ">" if order == "MM" else "<"
    packed = {1: struct.pack("B3x", value), 3: struct.pack(e + "HH", value, 0)}
    packed[4] = struct.pack(e + "I", value)
    head = b"Exif\0\0" + order.encode() + struct.pack(e + "HI", 42, 8) + struct.pack(e + "H", 1)
    return head + struct.pack(e + "HHI", tag, kind, count) + packed[kind] + bytes(4)


def by_opencv(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_undone_as_pillow_undoes_it(tmp_path, kind, orientation):
    lossless = {"webp": {"lossless": True}}.get(kind, {})
    data = encoded(kind, exif=exif("II", 3, orientation), **lossless)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    path = tmp_path / "a"
    path.write_bytes(data)
    read = read_image(path)
    np.testing.assert_array_equal(read.image, np.asarray(upright))
    assert read.orientation == orientation and read.stored_size == PIXELS.shape[:2]


@pytest.mark.parametrize("kind", ["jpeg", "png"])
@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("exif_type", [1, 3, 4])
@pytest.mark.parametrize("orientation", [3, 6])
def test_an_orientation_of_any_type_is_read_as_opencv_reads_it(kind, order, exif_type, orientation):
    """A LONG in the order of Motorola is a quarter turn to Pillow, and none to OpenCV."""
    data = encoded(kind, exif=exif(order, exif_type, orientation))
    expected = by_opencv(data)
    read = decode_image(data, "a")
    np.testing.assert_array_equal(read.image, expected)
    if kind == "png" and read.orientation != 1:
        with pytest.raises(UserError, match="a PNG turned by its EXIF orientation"):
            read_image_size(data, "a")
    else:
        assert read_image_size(data, "a") == expected.shape[:2]
    np.testing.assert_array_equal(decode_verified(data), expected)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["II", "MM"]), st.integers(1, 8), st.data())
def test_a_damaged_exif_block_never_hinders_and_turns_the_same_everywhere(order, value, draw):
    block = bytearray(exif(order, 3, value))
    for place in draw.draw(st.lists(st.integers(6, len(block) - 1), max_size=4)):
        block[place] = draw.draw(st.integers(0, 255))
    data = encoded("jpeg", exif=bytes(block))
    read = decode_image(data, "a")
    np.testing.assert_array_equal(decode_verified(data), read.image)
    assert read_image_size(data, "a") == read.image.shape[:2]
    stored = by_opencv(without_metadata(data)[0])
    np.testing.assert_array_equal(read.image, turned_upright(stored, read.orientation))


# EXIF blocks of a quarter turn whose other tags have types or sizes that they cannot have.
DAMAGED = {
    "fill": (
        "0f0002000000060000003e0112000300000001000600008769000400000001000000448825000400"
        "00000100000062000000004d616b6572000002829a00030000000200010003900000070000000430"
        "32323000000000002f00010002000000024e00000000020005000000030000008000000000000000"
        "010000000100000002000000010000000300000001"
    ),
    "pack": (
        "3d0002000000060000003e0112000300000001000600008769000400000001000000448825000400"
        "00000100000062000000004d616b651b000002829a00030000000200010003900000070000000430"
        "323230000000000002001a0002000000024e00000000020005000000030000008000000000000000"
        "010000000100000002000000010000000300000001"
    ),
    "abs": (
        "0f0002000000060000003e0112000300000001000600008769000400000001000000448825000400"
        "00000100000062000000004d616b6572000002829a00030000000200010003900000070000000430"
        "323230000000000002000b0002000000024e0000000002000500b700030000008000000000000000"
        "010000000100000002000000010000000300000001"
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_photograph_with_broken_tags_is_read(case):
    block = bytes.fromhex("4578696600004d4d002a00000008000401" + DAMAGED[case])
    data = encoded("jpeg", exif=block)
    with pytest.raises((TypeError, struct.error)):
        ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    read = decode_image(data, "a")
    assert read.orientation == 6 and read.image.shape == (10, 6, 3)


def test_xmp_turns_nothing_anywhere():
    data = encoded("jpeg", xmp=XMP)
    assert Image.open(io.BytesIO(data)).getexif().get(0x0112) == 6
    assert read_image_size(data, "a") == by_opencv(data).shape[:2] == (6, 10)
    np.testing.assert_array_equal(decode_image(data, "a").image, decode_verified(data))


def test_other_exif_blocks_turn_nothing():
    for block in (b"", b"Exif\0\0", b"II*\0", b"Exif\0\0XX*\0\x08\0\0\0", exif("II", 3, 9)):
        assert exif_orientation(block) == 1


def test_an_image_behind_metadata_keeps_its_pixels():
    profile = RNG.bytes(70000)
    for kind, options in (
        ("jpeg", {"comment": b"x" * 300, "icc_profile": profile, "dpi": (300, 300)}),
        ("png", {"icc_profile": profile, "dpi": (300, 300)}),
    ):
        data = encoded(kind, exif=exif("II", 3, 1), **options)
        stripped, block = without_metadata(data)
        np.testing.assert_array_equal(by_opencv(stripped), by_opencv(data))
        assert len(stripped) < 1500 < len(data) and block.endswith(exif("II", 3, 1)[6:])
    assert without_metadata(b"\xff\xd8\xff") == (b"\xff\xd8\xff", b"")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_every_mode_of_every_format_is_what_pillow_shows(kind, mode):
    image = Image.fromarray(PIXELS).convert(mode)
    try:
        data = encoded(kind, image)
    except (OSError, ValueError):
        pytest.skip("this format has no such mode")
    read = decode_image(data, "a").image
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA").convert("RGB"))
    # Of four inks each library has a rule of its own.
    np.testing.assert_allclose(read.astype(int), shown, atol=80 if mode == "CMYK" else 0)
    if kind in ("JPEG", "PNG"):
        np.testing.assert_array_equal(decode_verified(data), read)


def test_a_transparent_palette_keeps_its_colours():
    data = encoded("png", Image.fromarray(PIXELS).convert("P"), transparency=3)
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[..., :3]
    np.testing.assert_array_equal(decode_image(data, "a").image, shown)


def test_photographs_of_two_cameras_in_one_file_are_their_first():
    data = encoded("MPO", save_all=True, append_images=[Image.fromarray(255 - PIXELS)])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert read_image_size(data, "a.jpg") == (6, 10)
    np.testing.assert_array_equal(decode_image(data, "a.jpg").image, by_opencv(data))


def test_png_with_much_text_and_a_large_profile_is_read():
    text = PngImagePlugin.PngInfo()
    text.add_itxt("workflow", "x" * 3_000_000, zip=True)
    for options in ({"pnginfo": text}, {"icc_profile": b"\0" * 3_000_000}):
        np.testing.assert_array_equal(decode_image(encoded("png", **options), "a").image, PIXELS)


def test_postscript_never_reaches_a_program(monkeypatch):
    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: ran.append(1))
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 6\n%%EndComments\nshowpage\n"
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format == "EPS"
    for read in (decode_image, read_image_size):
        with pytest.raises(UserError, match="a.jpg is no image that can be read but PostScript"):
            read(data, "a.jpg")
    assert not ran


@pytest.mark.parametrize("kind", ["ICO", "PCX", "TGA", "SGI", "JPEG2000"])
def test_other_formats_are_refused_though_pillow_reads_them(kind):
    with pytest.raises(UserError, match="expected JPEG, PNG, .* or AVIF"):
        decode_image(encoded(kind), "a")


def test_formats_that_are_not_read_are_named():
    with pytest.raises(UserError, match="but HEIC: expected JPEG"):
        decode_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a.heic")
    with pytest.raises(UserError, match="is BMP: expected JPEG or PNG, convert it"):
        read_image_size(encoded("bmp"), "a.jpg")


def png_that_says(width, height):
    data = bytearray(encoded("png"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def test_limits_on_pixels_are_those_of_the_call_in_any_number_of_threads(recwarn):
    before = Image.MAX_IMAGE_PIXELS
    small, large = encoded("png"), png_that_says(60000, 60000)

    def reads(number):
        limit = 60 if number % 2 else 59
        try:
            return number, decode_image(small, "a", max_pixels=limit).image.shape
        except UserError as error:
            return number, str(error)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for number, result in pool.map(reads, range(60)):
            assert (result == (6, 10, 3)) == bool(number % 2)
            assert number % 2 or "10x6 pixels, too many" in result
    with pytest.raises(UserError, match="60000x60000 pixels, too many: 400 million at most"):
        decode_image(large, "a")
    # Far above Pillow's own limit, which warns and refuses: it is the file that is too short.
    with pytest.raises(UserError, match="cut short or damaged"):
        decode_image(large, "a", max_pixels=60000**2)
    assert before == Image.MAX_IMAGE_PIXELS and not len(recwarn)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "tiff", "bmp", "ppm"])
def test_files_cut_short_are_refused(kind):
    data = encoded(kind, RNG.integers(0, 255, (60, 80, 3), np.uint8))
    for share in (0.3, 0.7, 0.95):
        with pytest.raises(UserError, match="cut short|damaged") as refused:
            decode_image(data[: int(share * len(data))], "a.img")
        assert str(refused.value).startswith("a.img")


WHOLE = {
    kind: encoded(kind, exif=exif("MM", 3, 6))
    if kind in ("jpeg", "png", "webp", "tiff")
    else encoded(kind)
    for kind in ("jpeg", "png", "webp", "tiff", "gif", "bmp", "ppm", "avif")
}


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_whatever_the_bytes_only_one_line_comes_out(kind, draw):
    content = bytearray(WHOLE[kind])
    for place in draw.draw(st.lists(st.integers(4, len(content) - 1), max_size=4)):
        content[place] = draw.draw(st.integers(0, 255))
    data = bytes(content[: draw.draw(st.integers(4, len(content)))])
    try:
        image = decode_image(data, "a", max_pixels=10**6).image
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert image.dtype == np.uint8 and image.ndim == 3
    if kind in ("jpeg", "png"):
        decode_verified(data)


def test_empty_and_missing_files_say_so(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    for name, says in (("a.jpg", "is empty"), ("b.jpg", "cannot be read: No such file")):
        with pytest.raises(UserError, match=says):
            read_image(tmp_path / name)


def gray(values, kind="tiff", **options):
    return decode_image(encoded(kind, values, **options), "a").image


def test_deep_gray_is_stretched_over_its_range():
    values = np.linspace(900, 1155, 256).reshape(16, 16).astype(np.uint16)
    for kind in ("png", "tiff"):
        image = gray(values, kind)
        assert (image == image[..., :1]).all()
        np.testing.assert_array_equal(image[..., 0].ravel(), np.arange(256))
    data = encoded("png", values)
    np.testing.assert_array_equal(decode_verified(data), decode_image(data, "a").image)
    assert (gray(np.full((4, 4), 500, np.uint16)) == 255).all()
    assert (gray(np.zeros((4, 4), np.uint16)) == 0).all()


def light(seed=0):
    return np.random.default_rng(seed).random((40, 60)).astype(np.float32)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -3.4e38, 3.4e38, -9999, 65535])
@pytest.mark.parametrize("share", [1, 700])
def test_values_that_are_no_light_do_not_darken_the_rest(value, share):
    values = light()
    expected = stretched(values)
    spoilt = values.copy()
    spoilt.ravel()[:share] = value
    image = gray(spoilt)[..., 0]
    assert len(np.unique(image)) > 250
    away = np.abs(image.ravel()[share:].astype(int) - expected.ravel()[share:])
    assert away.max() <= 1


def test_a_declared_no_data_value_inside_the_range_does_not_take_part():
    values = light() + 10
    values[:20] = 0
    tags = ImageFileDirectory_v2()
    tags[42113] = "0"
    image = gray(values, tiffinfo=tags)[..., 0]
    assert (image[:20] == 0).all() and image[20:].min() == 0 and image[20:].max() == 255
    assert len(np.unique(image[20:])) > 200


def test_several_hot_pixels_leave_the_gray_levels_of_the_others():
    values = np.random.default_rng(1).integers(900, 1100, (300, 300)).astype(np.uint16)
    values[0, :5] = 65535, 50000, 30000, 20000, 9000
    assert len(np.unique(gray(values, "png"))) == 200
    # A bright object is no hot pixel.
    values[100:120, 100:120] = np.linspace(20000, 30000, 400).reshape(20, 20)
    image = gray(values, "png")[..., 0]
    assert image[110, 110] > image[200, 200] + 100


def test_an_image_without_a_finite_value_is_refused():
    with pytest.raises(UserError, match="a holds no finite value"):
        gray(np.full((4, 4), np.nan, np.float32))


def test_floating_point_colours_are_read(tmp_path):
    values = np.random.default_rng(0).random((40, 60, 3)).astype(np.float32)
    path = tmp_path / "f.tif"
    cv2.imwrite(str(path), values[..., ::-1])
    np.testing.assert_allclose(
        read_image(path).image, stretched(values.reshape(40, -1)).reshape(40, 60, 3)
    )
    with pytest.raises(UserError, match="60x40 pixels, too many"):
        read_image(path, max_pixels=100)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="f.tif"):
        read_image(path)


@pytest.mark.parametrize("kind", ["png", "bmp", "webp", "tiff", "ppm"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_an_image_of_which_less_is_enough_is_the_mean_of_its_pixels(kind, mode):
    if kind == "ppm" and mode == "P":
        pytest.skip("there is no such file")
    pixels = np.random.default_rng(0).integers(0, 255, (60, 84, 3), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    lossless = {"webp": {"lossless": True}}.get(kind, {})
    data = encoded(kind, image, **lossless)
    read = decode_image(data, "a", side=28)
    whole = decode_image(data, "a").image
    assert read.size == (60, 84) and read.image.shape == (20, 28, 3)
    np.testing.assert_allclose(read.image, whole.reshape(20, 3, 28, 3, 3).mean((1, 3)), atol=1.01)
    assert decode_image(data, "a", side=43).image.shape == (60, 84, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff"])
def test_a_smaller_image_is_turned_like_the_whole(kind, orientation):
    ramp = np.linspace(0, 255, 96)[:, None] * np.linspace(0.5, 1, 64)
    pixels = np.stack([ramp, ramp[::-1], ramp], -1).astype(np.uint8)
    data = encoded(kind, pixels, exif=exif("II", 3, orientation))
    whole, small = decode_image(data, "a"), decode_image(data, "a", side=24)
    assert small.size == whole.size == whole.image.shape[:2]
    assert small.stored_size == whole.stored_size and max(small.image.shape) == 24
    height, width = small.image.shape[:2]
    means = whole.image.reshape(height, 4, width, 4, 3).mean((1, 3))
    np.testing.assert_allclose(small.image, means, atol=4)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_file_cut_short_is_refused_though_less_is_enough(kind):
    pixels = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    data = encoded(kind, pixels)
    with pytest.raises(UserError, match="cut short or damaged"):
        decode_image(data[: len(data) * 3 // 4], "a", side=40)
