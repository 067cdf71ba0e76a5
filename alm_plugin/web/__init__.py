"""One small page server: `messages` says what a page may ask, `server` who may ask it, `console` is the live page."""
