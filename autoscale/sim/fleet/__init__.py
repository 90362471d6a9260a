"""A fleet in virtual time: pods, control plane, metric path, scaler, outcome."""
