"""The mixer on stage: audio, model and operator, each in a process of its own."""
