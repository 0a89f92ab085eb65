"""Code generated from protos/ by scripts/generate.py; never edited by hand."""
