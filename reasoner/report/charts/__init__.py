"""Charts as SVG: series.py (curves) on scale.py (axes), drawn by svg.py."""
