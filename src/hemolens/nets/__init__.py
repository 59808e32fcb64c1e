"""Networks: pure nn.Modules."""
