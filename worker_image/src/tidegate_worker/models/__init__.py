"""From a catalogue entry to a predictor: what a pipeline is made of, where its weights lie, how it is computed."""
