"""An app whose table pghistory tracks."""
