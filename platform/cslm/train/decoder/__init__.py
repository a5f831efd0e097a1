"""Training of the speech decoder: units -> audio, on the units and the audio of a corpus."""
