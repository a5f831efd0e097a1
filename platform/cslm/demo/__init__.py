"""The demo corpus: a sentence grammar in several languages, spoken by synthetic voices."""
