"""Area of interest and class names in, georeferenced class layers out."""

import logging

__version__ = "0.1.0"

# Warnings of a library without a handler would go to stderr; who wants them listens.
logging.getLogger(__name__).addHandler(logging.NullHandler())
