"""How a loop waits, wakes, retries and shows that it still turns."""
