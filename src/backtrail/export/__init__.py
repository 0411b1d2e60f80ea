"""The suite for others: model cards and an RO-Crate."""
