"""One file per architecture: it has its name and holds its record, ARCHITECTURE. `hf` makes the records of hf/…."""
