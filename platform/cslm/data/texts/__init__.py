"""Text corpora of many formats -> the tables `parallel_text` and `dialogues`; `formats` lists what can be read."""
