"""Corpora, packed rows and the feed that brings them to training."""
