"""TIFF files of microscopes and of NumPy that Pillow does not read, against their values."""

import cv2
import numpy as np
import pytest

from apanet_jax.data.images.reader import decode_image
from apanet_jax.runtime.errors import UserError, main_guard

SIZE = (40, 60)


def saved(path, values):
    assert cv2.imwrite(str(path), values)
    return path


@pytest.mark.parametrize("channels", [(), (3,), (4,)])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_floating_point_of_any_number_of_channels_is_read(tmp_path, capfd, channels, kind):
    """One channel of 64 bits, as NumPy has it, and four channels were refused."""
    values = np.random.default_rng(0).random((*SIZE, *channels)).astype(kind)
    path = saved(tmp_path / "a.tif", values)
    found = decode_image(path.read_bytes(), path).image
    # OpenCV writes what it takes for BGR.
    seen = values[..., 2::-1] if channels else np.stack([values] * 3, -1)
    assert found.shape == (*SIZE, 3)
    assert np.corrcoef(found.ravel(), seen.ravel())[0, 1] > 0.999
    assert not capfd.readouterr().err or channels == (4,)


def test_several_channels_that_are_no_colours_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"a\.tif"):
        decode_image(b"II*\0\x08\0\0\0\0\0\0\0\0\0", tmp_path / "a.tif")


def test_a_small_limit_on_pixels_is_named_in_full(tmp_path):
    path = saved(tmp_path / "a.png", np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(UserError, match="too many: 100 at most"):
        decode_image(path.read_bytes(), path, max_pixels=100)


def test_a_command_says_one_line_of_a_damaged_file(tmp_path, capfd, recwarn):
    """Pillow's warnings came before it, with a place in its source."""

    @main_guard
    def command():
        decode_image(b"II*\0" + b"\xff" * 8, tmp_path / "a.tif")

    with pytest.raises(SystemExit):
        command()
    assert capfd.readouterr().err.count("\n") == 1 and not recwarn.list
