"""HTTP over asyncio, with fixed limits per client."""
