"""What people see: terminal, pages, progress."""
