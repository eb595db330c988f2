"""The field's scores: encoders (features.py), pure functions on features, torchmetrics classes."""
