"""Physics: cell shapes and image formation."""
