"""The simulated machine: cards, the rules of MIG, faults and sensors."""
