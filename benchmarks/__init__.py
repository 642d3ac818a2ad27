"""Every speed figure that a document quotes, as a command: `make bench`."""
