"""Readers of corpora as they lie, one module for each layout, behind one table of their names."""

from cslm.data.corpora.formats import FORMATS, Corpus, CorpusSection

__all__ = ["FORMATS", "Corpus", "CorpusSection"]
