"""Every setting, read from config files, flags and saved runs."""
