"""HTTP over asyncio, with limits that no client can stretch."""
