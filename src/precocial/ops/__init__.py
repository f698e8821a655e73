"""Pure tensor functions; every formula has a name here."""
