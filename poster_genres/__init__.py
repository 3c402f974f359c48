"""What the stages of the pipeline share: plain functions on files, tables and arrays."""
