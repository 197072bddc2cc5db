"""The command `predict` on the scenes of conftest.py."""

import cv2
import pytest
from PIL import Image

from apanet_jax import predict
from tests.inference.test_segmenter import GREEN, LEFT, RED, RIGHT, scene

ALL_FORMATS = "--format=png,coco,labelme,yolo,csv"


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        predict.main([str(x) for x in arguments])
    return ended.value.code


def given(folder, name="red"):
    return folder / f"{name}.png", folder / f"{name}_truth.png"


def write_scenes(folder, colours):
    """Writes the supports of `given`, and an image of each colour to new/NAME.png."""
    for name, colour in (("red", RED), ("green", GREEN)):
        image, mask = scene(colour, LEFT)
        Image.fromarray(image).save(folder / f"{name}.png")
        Image.fromarray(mask).save(folder / f"{name}_truth.png")
    (folder / "new").mkdir()
    for name, colour in colours.items():
        Image.fromarray(scene(colour, RIGHT)[0]).save(folder / "new" / f"{name}.png")


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def video(path, frames, codec="MJPG"):
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, (width, height))
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
