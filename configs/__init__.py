"""Settings of runs: `get_config()` functions for `--config=configs/NAME.py`."""
