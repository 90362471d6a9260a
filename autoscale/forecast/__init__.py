"""What a recommendation says of a load that a check runs: that very load, simulated on the recommendation's own replica."""
