"""One file per detector, or per kind of detectors KIND/…: it has that name and holds the class `Detector`."""
