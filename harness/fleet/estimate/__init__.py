"""From a measured run to a site, at one moment."""
