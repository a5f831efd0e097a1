"""The page that tells how a run of retraining went, for people who own a language's data."""
