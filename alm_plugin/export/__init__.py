"""Taking a mix home: gain curves for other programs."""
