"""Scheduled runs over archives: room kept for the Prefect flows; none is here yet."""
