"""Results as tables and sentences for the terminal, one module per thing shown. Nothing here prints."""
