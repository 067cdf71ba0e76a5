"""What hears: clock, resampler, log-mel, levels and activity, put together in one front end."""
