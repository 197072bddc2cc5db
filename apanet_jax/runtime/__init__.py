"""What every room stands on: errors and signals, files and locks, devices and processes."""
