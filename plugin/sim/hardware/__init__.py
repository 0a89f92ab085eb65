"""The simulated machine: cards, MIG rules, faults and sensors."""
