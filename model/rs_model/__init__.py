"""The segmenter: models that turn tiles and words into class probabilities."""
