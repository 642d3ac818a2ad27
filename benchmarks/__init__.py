"""Every figure that a document quotes, as a command: speed by `make bench`, quality by `python -m benchmarks.NAME`."""
