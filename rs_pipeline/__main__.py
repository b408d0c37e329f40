"""`python -m rs_pipeline` is `rs-seg`."""

from rs_pipeline.cli import main

main()
