"""Off-axis digital holography: formation, retrieval, refocusing, unwrapping, flattening."""
