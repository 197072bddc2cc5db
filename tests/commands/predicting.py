"""The command `predict` on the scenes of conftest.py."""

import cv2
import pytest

from apanet_jax import predict

ALL_FORMATS = "--format=png,coco,labelme,yolo,csv"


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        predict.main([str(x) for x in arguments])
    return ended.value.code


def given(folder, name="red"):
    return folder / f"{name}.png", folder / f"{name}_truth.png"


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def video(path, frames, codec="MJPG"):
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, (width, height))
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
