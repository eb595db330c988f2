"""The scores of the field: encoders, pure functions on features, and torchmetrics classes."""
