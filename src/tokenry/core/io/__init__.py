"""What comes in and goes out: files read and written, settings, registries, the cache, folders of a run, jobs, progress."""
