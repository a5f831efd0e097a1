"""cslm: from audio corpora and text to a cross-lingual speech language model."""

__version__ = "0.1.0"
