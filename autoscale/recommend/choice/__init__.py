"""The choice of a scaler's setting: candidates, trials, search, reasons."""
