"""`fa-doctor fix`: applies the fixes of check's findings, proves them, and can take them back."""
