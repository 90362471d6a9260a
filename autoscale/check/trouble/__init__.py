"""What goes wrong while a check watches: an HPA that cannot act, and what the check itself could not see."""
