"""Area of interest and class names in, georeferenced class layers out."""

__version__ = "0.1.0"
