"""ScaledObjects as answers: the object, what may be chosen, what it is set beside, sentences."""
