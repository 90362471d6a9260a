"""Public measurements beside predictions that were frozen before they were compared."""
