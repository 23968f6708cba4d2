"""`bdkit app`: a page to draw, teach, edit, look and compare in. A file a tab; library calls do all the work."""
