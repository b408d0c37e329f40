"""Scheduled runs over archives, as Prefect flows: thin wrappers, what is done is in `rs_pipeline`."""
