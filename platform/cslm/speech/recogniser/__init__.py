"""A CTC recogniser of many languages, learned from a corpus: its middle gives speech units, its output text.

`features` turns audio into log-mel frames, `network` reads them, `alphabet` names what its outputs stand for,
`recogniser` puts the three together as what is saved, loaded and asked.
"""
