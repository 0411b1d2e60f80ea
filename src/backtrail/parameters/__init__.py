"""Typed parameters: what `params.yaml` may say, with the meaning and unit of each field. One module per section."""
