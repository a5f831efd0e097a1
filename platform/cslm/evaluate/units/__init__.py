"""Measures by which speech tokenizers are compared: what units carry of words, phones and speakers, and their price.

Every measure takes units and labels and gives plain figures, whatever tokenizer made the units. What trains something
(a classifier, a recogniser) is fixed and seeded, so that a figure is a property of the units.
"""
