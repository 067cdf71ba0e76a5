"""What acts on the sound: nodes that are used like pedalboard plugins, and chains and strips of them."""
