"""torchmetrics.Metric classes."""
