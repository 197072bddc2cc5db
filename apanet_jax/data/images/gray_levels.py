"""Gray values of scientific images, of any range and with anything among them, as 0 to 255."""

import numpy as np
from jaxtyping import Float, UInt8

# A value this many ranges outside the range of all but the outermost ten-thousandth of values is
# taken for a dead or hot pixel.
_FAR = 1.0
_OUTERMOST = 1e-4
_NO_DATA_MAGNITUDE = 1e30
_SAMPLED = 1 << 22


def stretched(
    values: Float[np.ndarray, "h w"], no_data: float | None = None
) -> UInt8[np.ndarray, "h w"] | None:
    """Returns gray values of any range as 0 to 255: the darkest becomes 0, the brightest 255.

    Values that are no light do not take part. What is not finite, equals `no_data` or has a
    magnitude beyond 1e30 becomes 0. A lowest or highest value that lies farther from all others
    than these from each other becomes 0 or 255, as do single ones far outside the others' range.

    Returns:
      The gray levels, or None where no value is finite.
    """
    valid = np.isfinite(values) & (np.abs(values) < _NO_DATA_MAGNITUDE)
    if no_data is not None:
        valid &= values != no_data
    step = max(1, values.size // _SAMPLED)
    sample = values.reshape(-1)[::step][valid.reshape(-1)[::step]]
    if not len(sample):
        sample = values[valid]
    if not len(sample):
        return None
    low, high = _range_of_light(sample)
    if high <= low:
        return np.where(valid & (values >= high) & (values > 0), 255, 0).astype(np.uint8)
    light = np.clip(np.where(valid, values, low), low, high)
    return ((light - low) * (255 / (high - low))).round().astype(np.uint8)


def _range_of_light(sample: Float[np.ndarray, " sample"]) -> tuple[float, float]:
    levels = np.unique(sample)
    # A marker such as -9999 or 65535, on however many pixels.
    while len(levels) > 3 and levels[1] - levels[0] > levels[-1] - levels[1]:
        levels = levels[1:]
    while len(levels) > 3 and levels[-1] - levels[-2] > levels[-2] - levels[0]:
        levels = levels[:-1]
    inside = sample[(sample >= levels[0]) & (sample <= levels[-1])]
    low, high = np.quantile(inside, [_OUTERMOST, 1 - _OUTERMOST])
    room = _FAR * (high - low)
    return (
        float(low if levels[0] < low - room else levels[0]),
        float(high if levels[-1] > high + room else levels[-1]),
    )
