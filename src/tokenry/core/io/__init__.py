"""What comes in and goes out: settings, descriptions, files written whole, the cache, registries, progress."""
