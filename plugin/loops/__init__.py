"""How loops wait, wake, retry and report that they are alive."""
