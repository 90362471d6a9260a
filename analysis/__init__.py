"""Tables and statistics: the ground floor. Imports nothing of ours."""
