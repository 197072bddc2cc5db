"""Foreign weight files to parameters."""
