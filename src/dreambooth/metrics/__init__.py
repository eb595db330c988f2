"""The field's scores: encoders (encoders.py), pure functions on features, torchmetrics classes."""
