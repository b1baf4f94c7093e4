"""headwater: a feature store with lightweight heads."""
