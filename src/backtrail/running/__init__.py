"""The frame around a stage: device, processes, memory, determinism."""
